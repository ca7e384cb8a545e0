"""The compression test: what a model still says when all but some nodes hold nothing of the input.

Lu et al. 2021: nodes of patterns keep what they compute, every other node gets what it
is on average over the questions of a group, or zeros. Nodes are tokens behind blocks, and the ways
into these.

B question of a group, T token, D width, W columns of all heads, H head, L block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayinfluence.patterns.anatomy import Anatomy
from rayinfluence.patterns.gates import Change, Gates, gated
from rayinfluence.patterns.line import SKIP
from rayinfluence.patterns.question import Question


@dataclass(frozen=True)
class Kept:
    """Which nodes of a question keep what they compute.

    Attributes:
        positions_LT: tokens behind each block.
        heads_LTH: heads, into such tokens.
        skips_LT: skip connections into them.
    """

    positions_LT: NDArray[np.bool_]
    heads_LTH: NDArray[np.bool_]
    skips_LT: NDArray[np.bool_]

    @classmethod
    def of_paths(
        cls, paths: Sequence[tuple[Sequence[int], Sequence[int]]], n_tokens: int, n_heads: int
    ) -> Kept:
        """The nodes on some paths, each of tokens (one more than blocks) and of ways."""
        n_blocks = len(paths[0][1])
        kept = cls(
            np.zeros((n_blocks, n_tokens), bool),
            np.zeros((n_blocks, n_tokens, n_heads), bool),
            np.zeros((n_blocks, n_tokens), bool),
        )
        for positions, ways in paths:
            for block, (position, way) in enumerate(zip(positions[1:], ways, strict=True)):
                kept.positions_LT[block, position] = True
                if way == SKIP:
                    kept.skips_LT[block, position] = True
                else:
                    kept.heads_LTH[block, position, way] = True
        return kept

    def with_all_ways(self) -> Kept:
        """The same tokens, by all ways."""
        return Kept(self.positions_LT, np.ones_like(self.heads_LTH), np.ones_like(self.skips_LT))

    @property
    def n_positions_L(self) -> NDArray[np.int64]:
        """How many tokens are kept, behind each block."""
        found: NDArray[np.int64] = self.positions_LT.sum(1)
        return found

    @property
    def n_ways_L(self) -> NDArray[np.int64]:
        """How many ways lead to tokens that are kept, into each block."""
        at = self.positions_LT
        found: NDArray[np.int64] = (self.heads_LTH.sum(2) * at + self.skips_LT * at).sum(1)
        return found


@dataclass(frozen=True)
class StandIns:
    """What nodes get that are not kept.

    Attributes:
        hidden: before the first block and behind each, [T, D].
        heads: of each block, [T, W].
    """

    hidden: tuple[Tensor, ...]
    heads: tuple[Tensor, ...]

    def zeros(self) -> StandIns:
        """Zeros in their places."""
        return StandIns(*(tuple(map(torch.zeros_like, one)) for one in (self.hidden, self.heads)))


@torch.no_grad()
def averages(model: nn.Module, anatomy: Anatomy, group: Sequence[Question]) -> StandIns:
    """What nodes are on average over some questions of as many tokens."""
    hidden: list[Tensor] = []
    heads: list[Tensor] = []

    def noted(into: list[Tensor]) -> Change:
        def change(value: Tensor) -> Tensor:
            into.append(value.mean(0))
            return value

        return change

    first, *others = anatomy.blocks
    with ExitStack() as stack:
        gates = Gates(attention=noted(hidden), heads=noted(heads), output=noted(hidden))
        stack.enter_context(gated(first, gates))
        for block in others:
            gates = Gates(heads=noted(heads), output=noted(hidden))
            stack.enter_context(gated(block, gates))
        values(model, group)
    return StandIns(tuple(hidden), tuple(heads))


def values(model: nn.Module, group: Sequence[Question]) -> NDArray[np.float64]:
    """By how much the model prefers what is right [B], of questions of as many tokens."""
    embedding = model.get_input_embeddings().weight.detach()  # type: ignore[operator]
    device = embedding.device
    tokens_BT = torch.tensor([one.tokens for one in group], device=device)
    logits = model(inputs_embeds=embedding[tokens_BT], use_cache=False).logits
    rows = torch.arange(len(group), device=device)
    at = logits[rows, torch.tensor([one.position for one in group], device=device)]
    right, wrong = (
        at[rows, torch.tensor([getattr(one, key) for one in group], device=device)]
        for key in ("right", "wrong")
    )
    found: NDArray[np.float64] = (right - wrong).double().cpu().numpy()
    return found


@torch.no_grad()
def compressed_values(
    model: nn.Module,
    anatomy: Anatomy,
    group: Sequence[Question],
    kept: Sequence[Kept],
    stand_ins: StandIns,
) -> NDArray[np.float64]:
    """The same [B], where nodes that are not kept hold something else.

    Args:
        model: frozen, in evaluation mode.
        anatomy: of it.
        group: questions of as many tokens.
        kept: of each.
        stand_ins: what the others hold.
    """
    with _compressed(anatomy, kept, stand_ins):
        return values(model, group)


@contextmanager
def _compressed(anatomy: Anatomy, kept: Sequence[Kept], stand_ins: StandIns) -> Iterator[None]:
    positions_BLT = np.stack([one.positions_LT for one in kept])
    heads_BLTH = np.stack([one.heads_LTH for one in kept])
    skips_BLT = np.stack([one.skips_LT for one in kept])
    with ExitStack() as stack:
        for number, block in enumerate(anatomy.blocks):
            gates = Gates(
                skip=_else(skips_BLT[:, number], stand_ins.hidden[number]),
                heads=_else(heads_BLTH[:, number], stand_ins.heads[number]),
                output=_else(positions_BLT[:, number], stand_ins.hidden[number + 1]),
            )
            stack.enter_context(gated(block, gates))
        yield


def _else(kept: NDArray[np.bool_], stand_in: Tensor) -> Change:
    """What is kept as it is, and the rest as its stand-in; [B, T], or by head [B, T, H]."""
    mask = torch.from_numpy(kept).to(stand_in.device)

    def change(value: Tensor) -> Tensor:
        if mask.ndim == 2:
            return torch.where(mask[:, :, None], value, stand_in)
        columns = value.shape[-1] // mask.shape[-1]
        return torch.where(mask.repeat_interleave(columns, -1), value, stand_in)

    return change
