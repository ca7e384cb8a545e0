"""Nodes that others than patterns would keep: by chance, by attention, by conductance.

T token, H head, L block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayinfluence.patterns.compression import Kept
from rayinfluence.patterns.line import SKIP, Shares
from rayinfluence.patterns.question import Question

Path = tuple[tuple[int, ...], tuple[int, ...]]


def by_chance(
    like: Kept, question: Question, is_causal: bool, generator: np.random.Generator
) -> Kept:
    """As many tokens behind each block as others have, and as many ways, drawn at random.

    Args:
        like: the others.
        question: behind the last block its place is kept, and nothing else is read there.
        is_causal: whether no token behind the place can matter.
        generator: that draws.
    """
    n_tokens = question.position + 1 if is_causal else like.positions_LT.shape[1]
    positions_LT = np.full(like.positions_LT.shape, -np.inf)
    positions_LT[:, :n_tokens] = generator.random((len(positions_LT), n_tokens))
    return _largest(
        like,
        question,
        positions_LT,
        generator.random(like.heads_LTH.shape),
        generator.random(like.skips_LT.shape),
    )


def by_conductance(like: Kept, question: Question, shares: Shares) -> Kept:
    """As many as others have, of those through which the most flows in size.

    The conductance of a node is all influence that flows through it (Dhamdhere et al. 2019).
    """
    return _largest(
        like,
        question,
        np.abs(shares.positions_LT[1:]),
        np.abs(shares.heads_LTH),
        np.abs(shares.skips_LT),
    )


def _largest(
    like: Kept,
    question: Question,
    positions_LT: NDArray[np.float64],
    heads_LTH: NDArray[np.float64],
    skips_LT: NDArray[np.float64],
) -> Kept:
    """As many nodes as others have, with the largest numbers; ways among those of its tokens."""
    kept = Kept(*(np.zeros_like(one) for one in (like.positions_LT, like.heads_LTH, like.skips_LT)))
    pairs = zip(like.n_positions_L, like.n_ways_L, strict=True)
    for block, (n_positions, n_ways) in enumerate(pairs):
        chosen = np.argsort(-positions_LT[block], kind="stable")[:n_positions]
        if block == len(positions_LT) - 1:
            chosen = np.array([question.position])
        kept.positions_LT[block, chosen] = True
        ways_TW = np.concatenate([skips_LT[block, :, None], heads_LTH[block]], axis=1)[chosen]
        for flat in np.argsort(-ways_TW, axis=None, kind="stable")[:n_ways]:
            row, way = np.unravel_index(flat, ways_TW.shape)
            if way == 0:
                kept.skips_LT[block, chosen[row]] = True
            else:
                kept.heads_LTH[block, chosen[row], way - 1] = True
    return kept


def attention_paths(
    attention_LHTT: NDArray[np.float64], position: int, starts: Sequence[int]
) -> list[Path]:
    """From some tokens the path with the most attention to where the question is asked.

    The weight of a path is the product of (A + 1) / 2 over its blocks, with A the mean over heads
    and 1 of the skip connection (Abnar & Zuidema 2020). Where it stays at a token it
    takes the skip connection, elsewhere the head that looks there most.

    Args:
        attention_LHTT: weights, of each token (third axis) over those that it reads (last).
        position: where the question is asked.
        starts: tokens that paths begin at.
    """
    n_tokens = attention_LHTT.shape[-1]
    log_LTT = np.log(np.maximum((attention_LHTT.mean(1) + np.eye(n_tokens)) / 2, 1e-300))
    # Behind each block, from the last to the first: the best weight from a token to the place.
    best_T = np.full(n_tokens, -np.inf)
    best_T[position] = 0.0
    following: list[NDArray[np.int64]] = []
    for log_TT in log_LTT[::-1]:
        through_TT = best_T[:, None] + log_TT
        following.insert(0, through_TT.argmax(0))
        best_T = through_TT.max(0)
    return [_path(start, following, attention_LHTT) for start in starts]


def _path(
    start: int, following: Sequence[NDArray[np.int64]], attention_LHTT: NDArray[np.float64]
) -> Path:
    positions, ways = [start], []
    for block, next_T in enumerate(following):
        here, there = positions[-1], int(next_T[positions[-1]])
        heads_H = attention_LHTT[block, :, there, here]
        ways.append(SKIP if here == there else int(heads_H.argmax()))
        positions.append(there)
    return tuple(positions), tuple(ways)


@torch.no_grad()
def attention_of(model: nn.Module, question: Question) -> NDArray[np.float64]:
    """Attention weights of a question [L, H, T, T]."""
    device = next(model.parameters()).device
    tokens = torch.tensor([question.tokens], device=device)
    given = model(input_ids=tokens, output_attentions=True, use_cache=False).attentions
    return np.stack([one[0].double().cpu().numpy() for one in given])
