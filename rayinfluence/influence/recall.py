"""What a filter keeps of the most influential sequences: a bound from a random sample that holds.

N sequences are ordered by a score, K of them are the top, and R of those are among the candidates:
recall is R / K. Of a sample of n, drawn without replacement, J are of the top: they are its first J
by score, but J itself is not seen. It has a known distribution, hypergeometric of (N, K, n), and
given J = j the candidates among the first j are hypergeometric of (K, R, j). So with

    [j_1, j_2]    what J is in but for a probability of alpha / 5, by N, K and n alone
    L(j)          the least R that the candidates seen among the first j leave possible at
                  4 alpha / 5: the exact test, inverted (Clopper & Pearson 1934)

recall is at least min over j in [j_1, j_2] of L(j) / K, with a probability of at least 1 - alpha,
at any size. What is seen of each is a yes or a no and the size of the sample is fixed, so the exact
test is there, and what holds for means of any bounded numbers at any time (by betting, Waudby-Smith
& Ramdas 2023) is not needed. A normal approximation, which says 100 % +- 0 where all that were seen
are candidates, does not hold.

n sequence of the sample, the first of them first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, lgamma

import numpy as np
from numpy.typing import NDArray

#: Bounds hold with this probability, each by itself.
CONFIDENCE = 0.95
#: Of the probability of an error, the part that is for how many of the sample are of the top.
_FOR_THE_NUMBER = 0.2
#: The share that a statement is about, if the sample is large enough for one.
TOP_SHARE = 0.001
#: It is if a filter that keeps everything is shown to keep so much.
_SHOWN = 0.5


@dataclass(frozen=True)
class Recall:
    """What is known of a filter's recall for one query and direction.

    Attributes:
        n_top: K, how many sequences are the top.
        expected: of the sample, how many are of the top on average.
        estimate: of so many first ones, the share that are candidates.
        at_least: recall is no lower.
    """

    n_top: int
    expected: float
    estimate: float
    at_least: float


def recall(
    is_candidate_n: NDArray[np.bool_], n_all: int, n_top: int, confidence: float = CONFIDENCE
) -> Recall:
    """Bound the recall of a filter.

    Args:
        is_candidate_n: of the sample, the strongest first.
        n_all: that it was drawn from.
        n_top: how many are the top.
        confidence: that the bound holds with.
    """
    n = len(is_candidate_n)
    alpha = 1 - confidence
    kept = np.concatenate([[0], np.cumsum(is_candidate_n)])
    lowest, highest = _number_in_sample(n_all, n_top, n, alpha * _FOR_THE_NUMBER)
    rest = alpha * (1 - _FOR_THE_NUMBER)
    least = min(_least(n_top, int(kept[j]), j, rest) for j in range(lowest, highest + 1))
    expected = n * n_top / n_all
    j = max(1, round(expected))
    return Recall(n_top, expected, float(kept[min(j, n)]) / min(j, n), least / n_top)


def certified_top(n_all: int, n_sample: int, confidence: float = CONFIDENCE) -> int:
    """The K that a sample can say something of: one in a thousand, or the fewest that it can.

    It can if a filter that keeps all of them would be shown to keep at least half of them.
    """
    whole = np.ones(n_sample, dtype=np.bool_)

    def shown(n_top: int) -> bool:
        return recall(whole, n_all, n_top, confidence).at_least >= _SHOWN

    low, high = max(1, round(TOP_SHARE * n_all)), n_all
    if shown(low):
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def _number_in_sample(n_all: int, n_top: int, n: int, alpha: float) -> tuple[int, int]:
    """What the number of the top in the sample lies between, but for a probability of alpha."""
    # Farther from the mean there is nothing that a float could add.
    mean = n * n_top / n_all
    far = 10 * mean**0.5 + 50
    first = max(0, n - (n_all - n_top), int(mean - far))
    counts = np.arange(first, min(n, n_top, int(mean + far)) + 1)
    chances = np.array([_chance(int(j), n_all, n_top, n) for j in counts])
    below, above = np.cumsum(chances), np.cumsum(chances[::-1])[::-1]
    there = (below > alpha / 2) & (above > alpha / 2)
    return int(counts[there][0]), int(counts[there][-1])


def _least(n_top: int, kept: int, seen: int, alpha: float) -> int:
    """The least R for which as many as ``kept`` of ``seen`` are no rarer than alpha."""
    low, high = kept, n_top - (seen - kept)  # what was seen leaves these possible
    while low < high:
        middle = (low + high) // 2
        most = min(seen, middle)
        chance = sum(_chance(x, n_top, middle, seen) for x in range(kept, most + 1))
        low, high = (low, middle) if chance > alpha else (middle + 1, high)
    return low


def _chance(x: int, n_all: int, n_marked: int, n: int) -> float:
    """Of drawing x marked ones among n of n_all."""
    if x < max(0, n - (n_all - n_marked)) or x > min(n, n_marked):
        return 0.0
    return exp(
        _log_choose(n_marked, x) + _log_choose(n_all - n_marked, n - x) - _log_choose(n_all, n)
    )


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
