"""A network of two blocks whose paths can be listed, written out once as a module and once as sums.

T token, D width, H head, C column of a head, V vocabulary, W way: the skip connection, then heads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayinfluence.patterns.anatomy import Anatomy, Shape, block_of
from rayinfluence.patterns.line import Line, at

WIDTH, N_HEADS, VOCABULARY, N_BLOCKS = 4, 2, 9, 2
COLUMNS = WIDTH // N_HEADS


class Attention(nn.Module):
    """Softmax attention over all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def heads(self, read_BTD: Tensor) -> Tensor:
        """What the heads give, side by side."""
        q, k, v = (
            one.unflatten(-1, (N_HEADS, COLUMNS)).transpose(-3, -2)
            for one in self.into(read_BTD).chunk(3, -1)
        )
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        return (weights @ v).transpose(-3, -2).flatten(-2)

    def forward(self, read_BTD: Tensor) -> Tensor:
        return self.out(self.heads(read_BTD))


class Block(nn.Module):
    """A norm, attention and what is behind both ways."""

    def __init__(self) -> None:
        super().__init__()
        # So soft that the line has no kinks where it passes near the mean.
        self.norm = nn.LayerNorm(WIDTH, eps=1.0)
        self.attention = Attention()
        self.mlp = nn.Linear(WIDTH, WIDTH)

    def behind(self, middle: Tensor) -> Tensor:
        """Of one token."""
        return middle + torch.tanh(self.mlp(middle))

    def forward(self, hidden_BTD: Tensor, **_: object) -> Tensor:
        return self.behind(self.attention(self.norm(hidden_BTD)) + hidden_BTD)


class TwoBlocks(nn.Module):
    """It takes embeddings and gives logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(N_BLOCKS))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, inputs_embeds: Tensor, use_cache: bool) -> SimpleNamespace:
        hidden = inputs_embeds
        for block in self.blocks:
            hidden = block(hidden)
        return SimpleNamespace(logits=self.head(hidden))


def two_blocks(seed: int = 0) -> tuple[TwoBlocks, Anatomy]:
    """The network with large random weights in float64, frozen; and what is where in it."""
    torch.manual_seed(seed)
    model = TwoBlocks().double().eval()
    for weight in model.parameters():
        weight.data = weight.data + 0.7 * torch.randn(weight.shape, dtype=torch.float64)
        weight.requires_grad_(False)
    shape = Shape("norm", ("", 0), "attention.out")
    return model, Anatomy([block_of(one, shape) for one in model.blocks], N_HEADS)


Path = tuple[tuple[int, ...], tuple[int, ...]]


def all_paths(
    model: TwoBlocks,
    along_RTD: Tensor,
    weights_R: NDArray[np.float64],
    step_TD: Tensor,
    position: int,
    difference_V: Tensor,
) -> dict[Path, float]:
    """The influence of every path, by its tokens and ways (-1 is the skip connection).

    A product of Jacobians, each of them taken whole and by itself at every point.
    """
    n_tokens = len(step_TD)
    found: dict[Path, float] = {}
    for along_TD, weight in zip(along_RTD, weights_R, strict=True):
        jacobians, hidden = [], along_TD
        for block in model.blocks:
            jacobians.append(_by_way(block, hidden))
            hidden = block(hidden)
        last_D = difference_V @ model.head.weight
        for positions, ways in _listed(n_tokens, position):
            vector = step_TD[positions[0]]
            for number, way in enumerate(ways):
                there, here = positions[number + 1], positions[number]
                vector = jacobians[number][way + 1][there, :, here] @ vector
            path = (positions, ways)
            found[path] = found.get(path, 0.0) + float(weight * (last_D @ vector))
    return found


def _listed(n_tokens: int, position: int) -> Iterator[Path]:
    for free in itertools.product(range(n_tokens), repeat=N_BLOCKS):
        for ways in itertools.product(range(-1, N_HEADS), repeat=N_BLOCKS):
            yield (*free, position), ways


def _by_way(block: nn.Module, hidden_TD: Tensor) -> list[Tensor]:
    """Of each way the Jacobian [T, D, T, D] of what the block gives in what it is given."""
    weight = block.attention.out.weight

    def of_head(head: int) -> Callable[[Tensor], Tensor]:
        columns = slice(head * COLUMNS, (head + 1) * COLUMNS)
        return lambda given: (
            block.attention.heads(block.norm(given))[:, columns] @ weight[:, columns].T
        )

    ways: list[Callable[[Tensor], Tensor]] = [lambda given: given.clone()]
    ways += [of_head(head) for head in range(N_HEADS)]
    middle = sum(way(hidden_TD) for way in ways) + block.attention.out.bias
    jacobian = torch.autograd.functional.jacobian
    behind = jacobian(block.behind, middle)
    return [torch.tensordot(behind, jacobian(way, hidden_TD), 2) for way in ways]


def influence_of(line: Line, positions: Sequence[int], ways: Sequence[int] | None = None) -> float:
    """What flows through some tokens, by some ways.

    Args:
        line: of the question.
        positions: before the first block, and behind each.
        ways: of each block; all where it is None.
    """
    tangent = at(line.tangents_RTD[None], positions[:1])
    for block, position in enumerate(positions[1:]):
        way = None if ways is None else [ways[block]]
        tangent = at(line.push(block, tangent, way).output_KRTD, [position])
    return float(line.mean((line.gradients[-1] * tangent).sum((2, 3)))[0])
