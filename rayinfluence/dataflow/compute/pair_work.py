"""How many parts completions are cut into, so that scores by pairs of tokens stay a small share.

By counts and not by the clock, so that the same run has the same parts wherever it runs. Work is in
multiplications. A token passes each tracked weight twice, forward and backward, and about as many
other weights; what else its pass takes is counted as if it were multiplications, too. The fit has
two passes, each with products of two sides' widths (A and S, then rotations into their eigenbases),
a scan has one, with the product of the queries, and so has the second pass over its survivors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.compute.completion_parts import MOST_PARTS
from rayinfluence.model.modules import ModuleShape

#: The scores may take one of so many parts of what the job takes.
_SHARE = 10
#: With fewer parts than that fewer survivors are taken.
_ENOUGH_PARTS = 8
#: What a run takes to begin and end: ten seconds of a core, which did 3e10 a second.
_BEGIN = 1 << 38
#: Of a token, for each tracked weight: with that and others, forward and backward.
_PASS = 4
#: What else a token takes, of the demo's model on such a core: 75 us in a stage, which adds up and
#: keeps what it sees, and 35 us where it is run alone.
_STAGE, _RUN = 1 << 21, 1 << 20


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

    @classmethod
    def of(cls, query: EncodedQuery, run: int, scored: Sequence[int]) -> QueryWork:
        """That of a query that has parts."""
        first = query.answers[0]
        return cls(len(first.tokens), sum(first.counted), run, scored)


@dataclass(frozen=True)
class Affordable:
    """What there is by pairs of tokens.

    Attributes:
        n: survivors of each direction that have such scores.
        by_gradients: the methods by gradients that have them.
        most_parts: that completions are cut into; 0 where even 2 are too many.
    """

    n: int
    by_gradients: tuple[str, ...]
    most_parts: int


def affordable(
    n: int, by_gradients: Sequence[str], most: Callable[[int, Sequence[str]], int]
) -> Affordable:
    """How many survivors by which methods have such scores, and how many parts there are.

    Few parts show little. Where completions would have too few of them, the first of the methods by
    gradients has such scores alone, and then half as many survivors, and half again; if there are
    too few with one, whatever has the most.

    Args:
        n: survivors of each direction, at most.
        by_gradients: all methods by gradients.
        most: given so many survivors and some of the methods, :func:`most_parts` of their work.
    """
    best, some = Affordable(0, (), 0), tuple(by_gradients)
    while n and best.most_parts < _ENOUGH_PARTS:
        found = Affordable(n, some, most(n, some))
        best = found if found.most_parts > best.most_parts else best
        if len(some) > 1:
            some = some[:1]
        else:
            n //= 2
    return best


def most_parts(
    queries: Sequence[QueryWork],
    shapes: Iterable[ModuleShape],
    scanned_tokens: int,
    fitted_tokens: int,
    rescored_tokens: int = 0,
) -> int:
    """How many parts a completion has at most: 32, 16, 8, 4 or 2; 0 where 2 are too many.

    Args:
        queries: all of them.
        shapes: of the tracked modules.
        scanned_tokens: of the sequences that the scan looked at.
        fitted_tokens: that factors with eigenbases were fitted on; 0 without any.
        rescored_tokens: of the survivors, which a second pass has scored.
    """
    shapes = list(shapes)
    numbers = _numbers(shapes)
    sides = sum(width**2 for of in shapes for width in _rotated(of))
    of_token = _PASS * numbers + _STAGE
    once = (of_token + numbers) * (scanned_tokens + rescored_tokens)
    job = _BEGIN + once + 2 * (of_token + sides) * fitted_tokens
    most = MOST_PARTS
    while most > 1:
        work = sum(multiplications(one, shapes, most) for one in queries)
        if work <= job // _SHARE:
            return most
        most //= 2
    return 0


def multiplications(query: QueryWork, shapes: Sequence[ModuleShape], most: int) -> int:
    """What a query takes.

    Args:
        query: what there is to do for it.
        shapes: of the tracked modules.
        most: parts of its completion, at most.
    """
    n_parts, n_tokens, numbers = min(most, query.n_counted), query.n_tokens, _numbers(shapes)
    runs = (_PASS * numbers + _RUN) * (query.run + n_parts * n_tokens)
    # Into the eigenbases, a product there, and back.
    inverses = sum(
        n_tokens * (sum(width**2 for width in _rotated(of)) + of.d_out * of.columns)
        + of.d_out * of.columns * sum(_rotated(of))
        for of in shapes
    )
    return runs + n_parts * (len(query.scored) * inverses + numbers * sum(query.scored))


def _numbers(shapes: Sequence[ModuleShape]) -> int:
    return sum(of.d_out * of.columns for of in shapes)


def _rotated(of: ModuleShape) -> list[int]:
    """The widths of a module's sides that have an eigenbasis of their own."""
    sides = {"outputs": of.d_out, "inputs": of.columns}
    return [width for side, width in sides.items() if side != of.diagonal]
