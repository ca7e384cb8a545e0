"""Guided pattern refinement: the path that carries the most, one node after the other.

Lu et al. 2021, section 4. Of one token of the input: block by block the token is taken through
which most of its influence flows, given those before (the last is where the question is asked);
then, with these, block by block the head or the skip connection. More than one path has the
pattern of tokens, exactly one that of ways. What is behind the node that is chosen is open, so one
gradient serves all choices of tokens; of ways it is taken again, along the tokens.

R point of the line, T token, D width, H head, C column of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayinfluence.patterns.line import SKIP, Line, Pulled, only


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


def influence_of(line: Line, positions: Sequence[int], ways: Sequence[int] | None = None) -> float:
    """What flows through some tokens, by some ways.

    Args:
        line: of the question.
        positions: before the first block, and behind each.
        ways: of each block; all where it is None.
    """
    tangent = only(line.tangents_RTD, positions[0])
    for block, position in enumerate(positions[1:]):
        way = None if ways is None else ways[block]
        tangent = only(line.push(block, tangent, way).output_RTD, position)
    return float(line.mean((line.gradients[-1] * tangent).sum((1, 2))))


def refined(line: Line, start: int) -> Pattern:
    """The pattern of a token of the input.

    Of a token whose influence is negative, it is the one that carries most of that.

    Args:
        line: of the question.
        start: the token's position.
    """
    whole = float(line.shares.positions_LT[0, start])
    sign = -1.0 if whole < 0 else 1.0
    positions, by_positions = _positions(line, start, sign)
    ways, influence = _ways(line, positions, sign)
    return Pattern(positions, ways, whole, by_positions, influence)


def _positions(line: Line, start: int, sign: float) -> tuple[tuple[int, ...], float]:
    """Tokens block by block, and what flows through them."""
    positions, tangent, influence = [start], only(line.tangents_RTD, start), 0.0
    for block in range(line.n_blocks):
        output = line.push(block, tangent).output_RTD
        flows_T = line.mean((line.gradients[block + 1] * output).sum(-1))
        is_last = block + 1 == line.n_blocks
        chosen = line.question.position if is_last else int(np.argmax(sign * flows_T))
        positions.append(chosen)
        tangent, influence = only(output, chosen), float(flows_T[chosen])
    return tuple(positions), influence


def _ways(line: Line, positions: Sequence[int], sign: float) -> tuple[tuple[int, ...], float]:
    """Ways block by block, and what flows by them."""
    tangent, behind = only(line.tangents_RTD, positions[0]), _behind(line, positions)
    ways: list[int] = []
    influence = 0.0
    for block, back in enumerate(behind):
        heads = line.push(block, tangent).heads_RTHC
        by_skip = float(line.mean((back.skip_RTD * tangent).sum((1, 2))))
        by_head_H = line.mean((back.heads_RTHC * heads).sum((1, 3)))
        best = int(np.argmax(sign * by_head_H))
        # The paper's code takes the skip connection where both are equal, and it is no way between
        # two tokens.
        stays = positions[block] == positions[block + 1]
        way = SKIP if stays and sign * by_skip >= sign * by_head_H[best] else best
        ways.append(way)
        influence = by_skip if way == SKIP else float(by_head_H[best])
        tangent = only(line.push(block, tangent, way).output_RTD, positions[block + 1])
    return tuple(ways), influence


def _behind(line: Line, positions: Sequence[int]) -> list[Pulled]:
    """Of every block, what a change behind it is along some tokens, by all ways."""
    gradient = line.gradients[-1]
    found: list[Pulled] = []
    for block in reversed(range(line.n_blocks)):
        found.insert(0, line.pull(block, only(gradient, positions[block + 1])))
        gradient = found[0].input_RTD
    return found
