"""Guided pattern refinement: the path that carries the most, one node after the other.

Lu et al. 2021. Of one token of the input: block by block the token is taken through which most of
its influence flows, given those before (the last is where the question is asked); then, with these,
block by block the head or the skip connection. More than one path has the pattern of tokens,
exactly one that of ways. What is behind the node that is chosen is open, so one gradient serves all
choices of tokens; of ways it is taken again, along the tokens.

K token whose pattern is looked for, R point of the line, T token, D width, H head, C column of a
head, L depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.patterns.line import SKIP, Line, Pulled, at

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
#: Tokens that a block is run on at once, over all points of the line and all that are followed.
_ROOM = 1 << 14


@dataclass(frozen=True)
class Pattern:
    """A path from a token of the input to where the question is asked.

    Attributes:
        positions: the token before the first block, and behind each.
        ways: of each block, the number of a head or ``SKIP``.
        whole: the influence of the token that it begins at.
        by_positions: of that, what flows through these tokens by any ways.
        influence: of that, what flows by these ways.
    """

    positions: tuple[int, ...]
    ways: tuple[int, ...]
    whole: float
    by_positions: float
    influence: float

    @property
    def start(self) -> int:
        """The token that it begins at."""
        return self.positions[0]


def refined(line: Line) -> tuple[Pattern, ...]:
    """The pattern of every token whose embedding is not the baseline, in their order.

    Of a token whose influence is negative, it is the one that carries most of that. As many tokens
    are followed at once as there is room for.
    """
    points, length, _ = line.tangents_RTD.shape
    beside = max(1, _ROOM // (points * length))
    return tuple(
        pattern
        for first in range(0, len(line.starts), beside)
        for pattern in _refined(line, line.starts[first : first + beside])
    )


def _refined(line: Line, starts: Sequence[int]) -> list[Pattern]:
    wholes_K = line.shares.positions_LT[0, list(starts)]
    signs_K = np.where(wholes_K < 0, -1.0, 1.0)
    positions_KL, by_positions_K = _positions(line, starts, signs_K)
    ways_KL, influences_K = _ways(line, positions_KL, signs_K)
    return [
        Pattern(tuple(positions), tuple(ways), whole, by_positions, influence)
        for positions, ways, whole, by_positions, influence in zip(
            positions_KL.tolist(),
            ways_KL.tolist(),
            wholes_K.tolist(),
            by_positions_K.tolist(),
            influences_K.tolist(),
            strict=True,
        )
    ]


def _start(line: Line, starts: Sequence[int]) -> Tensor:
    """The step of each token alone, [K, R, T, D]."""
    return at(line.tangents_RTD.expand(len(starts), -1, -1, -1), starts)


def _positions(line: Line, starts: Sequence[int], signs_K: Floats) -> tuple[Ints, Floats]:
    """Tokens block by block, and what flows through them."""
    each, tangent = np.arange(len(starts)), _start(line, starts)
    positions, influences = [np.array(starts)], np.zeros(len(starts))
    for block in range(line.n_blocks):
        output = line.push(block, tangent).output_KRTD
        flows_KT = line.mean((line.gradients[block + 1] * output).sum(-1))
        chosen_K = (signs_K[:, None] * flows_KT).argmax(1)
        if block + 1 == line.n_blocks:
            chosen_K = np.full(len(starts), line.question.position)
        positions.append(chosen_K)
        influences = flows_KT[each, chosen_K]
        tangent = at(output, chosen_K.tolist())
    return np.stack(positions, 1), influences


def _ways(line: Line, positions_KL: Ints, signs_K: Floats) -> tuple[Ints, Floats]:
    """Ways block by block, and what flows by them."""
    each, tangent = np.arange(len(positions_KL)), _start(line, positions_KL[:, 0].tolist())
    ways, influences = [], np.zeros(len(positions_KL))
    for block, back in enumerate(_behind(line, positions_KL)):
        heads = line.push(block, tangent).heads_KRTHC
        by_skip_K = line.mean((back.skip_KRTD * tangent).sum((2, 3)))
        by_head_KH = line.mean((back.heads_KRTHC * heads).sum((2, 4)))
        best_K = (signs_K[:, None] * by_head_KH).argmax(1)
        # The skip connection is taken where both are equal, and it is no way between two tokens.
        stays_K = positions_KL[:, block] == positions_KL[:, block + 1]
        skips_K = stays_K & (signs_K * by_skip_K >= signs_K * by_head_KH[each, best_K])
        ways.append(np.where(skips_K, SKIP, best_K))
        influences = np.where(skips_K, by_skip_K, by_head_KH[each, best_K])
        output = line.push(block, tangent, ways[-1].tolist()).output_KRTD
        tangent = at(output, positions_KL[:, block + 1].tolist())
    return np.stack(ways, 1), influences


def _behind(line: Line, positions_KL: Ints) -> list[Pulled]:
    """Of every block, what changes behind it are along some tokens, by all ways."""
    gradient = line.gradients[-1].expand(len(positions_KL), -1, -1, -1)
    found: list[Pulled] = []
    for block in reversed(range(line.n_blocks)):
        found.insert(0, line.pull(block, at(gradient, positions_KL[:, block + 1].tolist())))
        gradient = found[0].input_KRTD
    return found
