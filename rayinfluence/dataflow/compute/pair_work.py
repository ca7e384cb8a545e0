"""How many parts completions are cut into, so that scores by pairs of tokens stay a small share.

By counts and not by the clock, so that the same run has the same parts wherever it runs. Work is in
multiplications. A token passes each tracked weight twice, forward and backward, and about as many
other weights (heads, attention). The fit has two passes, each with products of two sides' widths (A
and S, then rotations into their eigenbases), and a scan has one, with the product of the queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rayinfluence.dataflow.compute.completion_parts import MOST_PARTS
from rayinfluence.model.modules import ModuleShape

#: The multiplications of fit and scan over this are what the scores may take,
_SHARE = 10
#: or so many, which is a second or less of a CPU: a run needs more than ten to begin and end.
_FLOOR = 1 << 33
#: Of a token, for each tracked weight: with that and others, forward and backward.
_PASS = 4


@dataclass(frozen=True)
class QueryWork:
    """What there is to do for a query.

    Attributes:
        n_tokens: of its first answer.
        n_counted: tokens of that which count.
        run: tokens of the sequences that run through the model again.
        scored: of those, by method that has gradients, the ones that it scores.
    """

    n_tokens: int
    n_counted: int
    run: int
    scored: Sequence[int]


def most_parts(
    queries: Sequence[QueryWork],
    shapes: Iterable[ModuleShape],
    scanned_tokens: int,
    fitted_tokens: int,
) -> int:
    """How many parts a completion has at most: 32, 16, 8, 4 or 2; 0 where 2 are too many.

    Args:
        queries: all of them.
        shapes: of the tracked modules.
        scanned_tokens: of the sequences that the scan looked at.
        fitted_tokens: that factors with eigenbases were fitted on; 0 without any.
    """
    shapes = list(shapes)
    numbers = sum(of.d_out * of.columns for of in shapes)
    sides = sum(width**2 for of in shapes for width in _rotated(of))
    job = (_PASS + 1) * numbers * scanned_tokens + 2 * (_PASS * numbers + sides) * fitted_tokens
    most = MOST_PARTS
    while most > 1:
        work = sum(_multiplications(one, shapes, numbers, most) for one in queries)
        if work <= max(_FLOOR, job // _SHARE):
            return most
        most //= 2
    return 0


def _multiplications(
    query: QueryWork, shapes: Sequence[ModuleShape], numbers: int, most: int
) -> int:
    """Of a query with so many parts at most."""
    n_parts, n_tokens = min(most, query.n_counted), query.n_tokens
    runs = _PASS * numbers * (query.run + n_parts * n_tokens)
    # Into the eigenbases, a product there, and back.
    inverses = sum(
        n_tokens * (sum(width**2 for width in _rotated(of)) + of.d_out * of.columns)
        + of.d_out * of.columns * sum(_rotated(of))
        for of in shapes
    )
    return runs + n_parts * (len(query.scored) * inverses + numbers * sum(query.scored))


def _rotated(of: ModuleShape) -> list[int]:
    """The widths of a module's sides that have an eigenbasis of their own."""
    sides = {"outputs": of.d_out, "inputs": of.columns}
    return [width for side, width in sides.items() if side != of.diagonal]
