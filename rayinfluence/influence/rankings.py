"""How alike two rankings are, and two sets of tokens, of which rare ones weigh more.

A ranking is a list of different things, the first of them first; of both only their beginnings are
known, and what stands after them is not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

#: Of rank-biased overlap: the first 10 of two rankings have 86 % of the weight.
PERSISTENCE = 0.9

T = TypeVar("T", bound=Hashable)


def overlap(ours: Sequence[T], theirs: Sequence[T], k: int) -> int:
    """How many of the first k of one ranking are among the first k of the other."""
    return len({*ours[:k]} & {*theirs[:k]})


def chance(k: int, n: int) -> float:
    """The share of the first k that two rankings of the same n, drawn at random, have in common.

    Of k that are drawn without replacement, k / n are among k others on average.
    """
    return min(1.0, k / n) if n else 0.0


def rank_biased_overlap(
    ours: Sequence[T], theirs: Sequence[T], persistence: float = PERSISTENCE
) -> float | None:
    """From 0, where nothing is in common, to 1 of equal rankings; the first places weigh most.

    Webber, Moffat & Zobel 2010, "A similarity measure for indefinite rankings", extrapolated: to
    the depth d of the shorter one, the share x_i that both have of the first i is weighted by
    p^(i - 1), and beyond it is taken to stay what it is at d:

        (1 - p) sum_{i = 1..d} p^(i - 1) x_i + p^d x_d

    Args:
        ours: one ranking.
        theirs: the other.
        persistence: p, between 0 and 1.

    Returns:
        None where one of them is empty.
    """
    depth = min(len(ours), len(theirs))
    if not depth:
        return None
    in_ours: set[T] = set()
    in_theirs: set[T] = set()
    both, total, share = 0, 0.0, 0.0
    for place, (one, other) in enumerate(zip(ours[:depth], theirs[:depth], strict=True), start=1):
        in_ours.add(one)
        in_theirs.add(other)
        both += (one in in_theirs) + (other in in_ours) - (one == other)
        share = both / place
        total += persistence ** (place - 1) * share
    return (1 - persistence) * total + persistence**depth * share


def rarities(texts: Iterable[Collection[T]]) -> Mapping[T, float]:
    """What each token weighs: log((n + 1) / (n_t + 1)), with n_t of n texts that have it.

    The inverse document frequency, smoothed, so that what is in all texts weighs nothing, and a
    token that is in none, which is given back when it is asked for, weighs most.
    """
    found: Counter[T] = Counter()
    n = 0
    for text in texts:
        found.update(set(text))
        n += 1
    return _Rarities(
        {token: math.log((n + 1) / (count + 1)) for token, count in found.items()}, math.log(n + 1)
    )


class _Rarities(dict[T, float]):
    def __init__(self, known: Mapping[T, float], unseen: float) -> None:
        super().__init__(known)
        self._unseen = unseen

    def __missing__(self, _: T) -> float:
        return self._unseen


def share_of(wanted: Collection[T], there: Collection[T], weights: Mapping[T, float]) -> float:
    """Of the weight of the wanted tokens, the share that is there; 0 where they weigh nothing."""
    whole = set(wanted)
    total = math.fsum(weights[token] for token in whole)
    both = math.fsum(weights[token] for token in whole.intersection(there))
    return both / total if total else 0.0


def likeness(ours: Collection[T], theirs: Collection[T], weights: Mapping[T, float]) -> float:
    """The weight of the tokens that two texts have in common over that of all they have.

    The Jaccard index, weighted; 1 of equal sets of tokens, and 0 where all they have weighs
    nothing.
    """
    one, other = set(ours), set(theirs)
    if one == other:
        return 1.0
    total = math.fsum(weights[token] for token in one | other)
    return math.fsum(weights[token] for token in one & other) / total if total else 0.0


def nearest(
    ours: Sequence[Collection[T]], theirs: Sequence[Collection[T]], weights: Mapping[T, float]
) -> float | None:
    """How alike the texts of two lists are: the mean likeness of each to the nearest of the other.

    Returns:
        None where one of them is empty.
    """
    if not ours or not theirs:
        return None
    alike = [[likeness(one, other, weights) for other in theirs] for one in ours]
    best = [max(row) for row in alike] + [max(column) for column in zip(*alike, strict=True)]
    return math.fsum(best) / len(best)
