"""The largest of many scores, known one by one or in bins, and power laws fitted to them.

N score or bin, in ascending order; J number of largest scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.influence.concentration import PowerLaw, power_law
from rayinfluence.influence.laws import Law, Vector, power_law_log_density
from rayinfluence.influence.tails import Tail, bin_of


@dataclass(frozen=True)
class Largest:
    """Positive scores from the smallest to the largest, or bins of them.

    Attributes:
        lower_N: the scores, or where bins begin.
        upper_N: the scores, or where bins end.
        counts_N: how many scores each stands for.
        is_binned: whether they are bins.
    """

    lower_N: Vector
    upper_N: Vector
    counts_N: NDArray[np.int64]
    is_binned: bool

    @classmethod
    def of_scores(cls, scores_N: Vector) -> Largest:
        """All positive ones of some scores."""
        found = np.sort(scores_N[scores_N > 0].astype(np.float64))
        return cls(found, found, np.ones(len(found), np.int64), False)

    @classmethod
    def of_tail(cls, tail: Tail) -> Largest:
        """A histogram, of which only bins are known."""
        return cls(tail.lower, tail.upper, tail.counts, True)

    @property
    def count(self) -> int:
        """How many scores there are."""
        return int(self.counts_N.sum())

    def first(self, k: int) -> Largest:
        """The k largest, with all that are in the bin of the k-th or equal to it."""
        reached = np.nonzero(np.cumsum(self.counts_N[::-1]) >= k)[0]
        first = len(self.counts_N) - 1 - int(reached[0]) if len(reached) else 0
        if not self.is_binned and len(self.lower_N):
            first = int(np.searchsorted(self.lower_N, self.lower_N[first]))
        return Largest(
            self.lower_N[first:], self.upper_N[first:], self.counts_N[first:], self.is_binned
        )

    def above(self, start: float) -> int:
        """How many are no smaller, as far as whole bins go."""
        return int(self.counts_N[self.lower_N >= start].sum())


def power_law_of(largest: Largest) -> PowerLaw | None:
    """The power law that begins at the smallest of them, by maximum likelihood.

    Of scores that are known one by one exponent = 1 + n / sum log(score / start), with the
    standard error (exponent - 1) / sqrt(n) (Clauset, Shalizi & Newman 2009, equations 3.1 and 3.2);
    of bins as `power_law` has it.

    Returns:
        None where all are in one place.
    """
    n = largest.count
    if largest.is_binned:
        bins = bin_of(largest.lower_N)
        return power_law(Tail(bins, largest.counts_N, largest.counts_N * largest.lower_N), n)
    logs = float(np.log(largest.lower_N / largest.lower_N[:1]).sum())
    if not logs:
        return None
    exponent = 1 + n / logs
    return PowerLaw(exponent, (exponent - 1) / math.sqrt(n), float(largest.lower_N[0]), n)


def distance(largest: Largest, law: PowerLaw) -> float:
    """The largest difference of shares below a score, of the sample and of the law.

    The Kolmogorov-Smirnov distance; of bins where they end.
    """
    n = largest.count
    below_N = np.cumsum(largest.counts_N) / n
    law_N = 1 - (largest.upper_N / law.start) ** (1 - law.exponent)
    gaps = np.abs(below_N - law_N)
    if not largest.is_binned:
        gaps = np.maximum(gaps, np.abs(below_N - 1 / n - law_N))
    return float(gaps.max())


@dataclass(frozen=True)
class Fit:
    """A power law with the start at which it fits best, and the scores that it is fitted to."""

    law: PowerLaw
    largest: Largest
    distance: float


def best_fit(largest: Largest, numbers_J: NDArray[np.int64]) -> Fit | None:
    """The start is where the law is nearest to the sample (Clauset et al. 2009, section 3.3).

    Args:
        largest: scores.
        numbers_J: how many of the largest to try.
    """
    best: Fit | None = None
    for k in numbers_J:
        some = largest.first(int(k))
        law = power_law_of(some)
        if law is None:
            continue
        found = distance(some, law)
        if best is None or found < best.distance:
            best = Fit(law, some, found)
    return best


def plausibility(
    largest: Largest, fit: Fit, numbers_J: NDArray[np.int64], draws: int, seed: int
) -> float:
    """How often samples of the law are further from their own fit than these scores are from it.

    The semi-parametric bootstrap of Clauset et al. 2009, section 4.1: scores from the start on are
    drawn from the law, those below from the sample, and the start is chosen again. At 0.1 and less
    the law is rejected. Of D draws it is right to sqrt(p (1 - p) / D).

    Args:
        largest: all scores among which the start was chosen.
        fit: of them.
        numbers_J: as they were tried.
        draws: samples.
        seed: of them.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    n, share = largest.count, fit.law.count / largest.count
    rest = len(largest.counts_N) - len(fit.largest.counts_N)
    chances = largest.counts_N[:rest] / max(1, largest.counts_N[:rest].sum())
    further = 0
    for _ in range(draws):
        n_above = int(generator.binomial(n, share))
        # 1 - u is above 0, which a score of infinite size would need.
        drawn = fit.law.start * (1 - generator.random(n_above)) ** (-1 / (fit.law.exponent - 1))
        below = largest.lower_N[generator.choice(rest, n - n_above, p=chances)] if rest else drawn
        drawn = np.concatenate([drawn, below]) if rest else drawn
        sample = Largest.of_scores(drawn)
        if largest.is_binned:
            bins, counts = np.unique(bin_of(drawn), return_counts=True)
            sample = Largest.of_tail(Tail(bins, counts, np.zeros(len(bins))))
        again = best_fit(sample, np.minimum(numbers_J, sample.count))
        further += again is not None and again.distance >= fit.distance
    return further / draws


def log_likelihoods(largest: Largest, law: Law | float, at_P: Vector) -> Vector:
    """Of each score, or of a score of each bin, by a law that is cut off below the smallest [N].

    In units of the smallest score.

    Args:
        largest: scores.
        law: one of `OTHERS`, or the exponent of a power law.
        at_P: its parameters; none of a power law.
    """
    start = float(largest.lower_N[0])
    low_N, high_N = largest.lower_N / start, largest.upper_N / start
    with np.errstate(all="ignore"):
        if isinstance(law, float):
            if not largest.is_binned:
                return power_law_log_density(low_N, law)
            return (1 - law) * np.log(low_N) + np.log(-np.expm1((1 - law) * np.log(high_N / low_N)))
        at = at_P.tolist()
        cut = float(law.log_above(np.ones(1), *at)[0])
        if not largest.is_binned:
            return law.log_density(low_N, *at) - cut
        above_N = law.log_above(low_N, *at)
        return above_N - cut + np.log(-np.expm1(law.log_above(high_N, *at) - above_N))
