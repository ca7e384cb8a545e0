"""How many parts completions are cut into, so that scores by pairs of tokens stay a small share.

By counts and not by the clock, so that the same run has the same parts wherever it runs. Work is in
multiplications with weights of tracked modules, of which a token of a scan has three with each:
forward, backward, and with the queries. All else of the model (heads, attention) is left out, of
which a scan has more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rayinfluence.dataflow.compute.completion_parts import MOST_PARTS
from rayinfluence.model.modules import ModuleShape

#: A scan's multiplications over these are what the scores may take,
_SHARE = 10
#: or so many, which is about a second: no run starts in ten.
_FLOOR = 1 << 34
_PER_TOKEN = 3
_FORWARD_AND_BACKWARD = 2


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
    queries: Sequence[QueryWork], shapes: Iterable[ModuleShape], scanned_tokens: int
) -> int:
    """How many parts a completion has at most: 32, 16, 8, 4 or 2; 0 where 2 are too many.

    Args:
        queries: all of them.
        shapes: of the tracked modules.
        scanned_tokens: of the sequences that the scan looked at.
    """
    shapes = list(shapes)
    numbers = sum(shape.d_out * shape.columns for shape in shapes)
    allowed = max(_FLOOR, _PER_TOKEN * numbers * scanned_tokens // _SHARE)
    most = MOST_PARTS
    while most > 1:
        if sum(_multiplications(one, shapes, numbers, most) for one in queries) <= allowed:
            return most
        most //= 2
    return 0


def _multiplications(
    query: QueryWork, shapes: Sequence[ModuleShape], numbers: int, most: int
) -> int:
    """Of a query with so many parts at most."""
    n_parts, n_tokens = min(most, query.n_counted), query.n_tokens
    runs = _FORWARD_AND_BACKWARD * numbers * (query.run + n_parts * n_tokens)
    # Into the eigenbases and back, and the products with rows in between.
    inverses = sum(
        n_tokens * (of.d_out**2 + of.columns**2 + of.d_out * of.columns)
        + of.d_out * of.columns * (of.d_out + of.columns)
        for of in shapes
    )
    return runs + n_parts * (len(query.scored) * inverses + numbers * sum(query.scored))
