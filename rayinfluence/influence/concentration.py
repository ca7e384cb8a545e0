"""How much of a query's influence few sequences hold, from the histogram of all scores.

K number of largest scores, D draw, B bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rayinfluence.influence.tails import BINS_PER_OCTAVE, Tail


def share_of_largest(tail: Tail, k: int) -> tuple[float, float] | None:
    """The share of a tail's mass that its k largest scores hold.

    Only the bin that the k-th lies in is cut. The r largest of its c scores hold at least r / c of
    its sum; at most r times its upper edge, and what the others leave at their least.

    Returns:
        The middle of what is possible and the distance to its ends, or None where there is no mass.
    """
    if not tail.count:
        return None
    counts, sums = tail.counts[::-1], tail.sums[::-1]
    cut = int(np.searchsorted(np.cumsum(counts), k))
    if cut == len(counts):
        return 1.0, 0.0
    rest = int(k - counts[:cut].sum())
    n, mass = int(counts[cut]), float(sums[cut])
    least = mass * rest / n
    lower, upper = float(tail.lower[::-1][cut]), float(tail.upper[::-1][cut])
    most = max(least, min(rest * upper, mass - (n - rest) * lower))
    above = float(sums[:cut].sum())
    return (above + (least + most) / 2) / tail.total, (most - least) / 2 / tail.total


def shares_of_random_signs(
    positive: Tail, negative: Tail, k_K: NDArray[np.int64], draws: int, seed: int
) -> NDArray[np.float64]:
    """What the k largest positive scores would hold if each score had its sign by a fair coin.

    Of each bin's c sizes, of either sign, a binomial number is positive, and each of those counts
    as their mean. A size and the mean of its bin are at most a factor of 2^(1/16) apart, so that a
    share, which is a ratio of such sums, is off by 9.1 % of itself at the most.

    Args:
        positive: the histogram of the positive scores.
        negative: that of the negative ones.
        k_K: how many of the largest.
        draws: how many times all coins are thrown.
        seed: of the coins.

    Returns:
        Shares of the positive mass [D, K]; NaN in a draw without any.
    """
    bins_B = np.union1d(positive.bins, negative.bins)[::-1]
    counts_B, sums_B = np.zeros(len(bins_B), np.int64), np.zeros(len(bins_B))
    for tail in (positive, negative):
        places = len(bins_B) - 1 - np.searchsorted(bins_B[::-1], tail.bins)
        counts_B[places] += tail.counts
        sums_B[places] += tail.sums
    generator = np.random.Generator(np.random.Philox(seed))
    heads_DB = generator.binomial(counts_B, 0.5, (draws, len(bins_B)))
    above_DB = np.cumsum(heads_DB, axis=1)
    held_DB = np.cumsum(heads_DB * (sums_B / np.maximum(counts_B, 1)), axis=1)
    shares = [
        np.interp(k_K, [0, *above_B], [0.0, *held_B]) / (held_B[-1] or np.nan)
        for above_B, held_B in zip(above_DB, held_DB, strict=True)
    ]
    return np.array(shares).reshape(draws, len(k_K))


@dataclass(frozen=True)
class PowerLaw:
    """A density proportional to score^-exponent from ``start`` on, and what it was fitted on.

    ``error`` is the exponent's standard error, should the scores follow such a law.
    """

    exponent: float
    error: float
    start: float
    count: int


def power_law(tail: Tail, k: int) -> PowerLaw | None:
    """Fit the k largest scores, and all others in the bin of the k-th, by maximum likelihood.

    Exact for binned scores: over bins whose edges have the ratio c, a power law is a geometric
    distribution of the bin j = 0, 1, ... with ratio c^-(exponent - 1), whose likelihood has its
    largest value where the mean of j is the sample's (Virkar & Clauset 2014).

    Returns:
        The law, or None where all the scores lie in one bin or there are none.
    """
    reached = np.nonzero(np.cumsum(tail.counts[::-1]) >= k)[0]
    first = len(tail.bins) - 1 - int(reached[0]) if len(reached) else 0
    bins, counts = tail.bins[first:], tail.counts[first:]
    n = int(counts.sum())
    steps = int((counts * (bins - bins[:1])).sum())
    if not steps:
        return None
    log_ratio = math.log(2.0) / BINS_PER_OCTAVE
    ratio = steps / (n + steps)
    exponent = 1 - math.log(ratio) / log_ratio
    error = (1 - ratio) / (log_ratio * math.sqrt(n * ratio))
    return PowerLaw(exponent, error, float(tail.lower[first]), n)


def share_of_noise(share: float) -> float:
    """What the largest scores, such a share of all of them, hold of all above zero, by chance.

    Were all scores independent draws of one normal distribution around zero, the largest share p
    would hold phi(z_p) / phi(0), where p lies above z_p and phi is the density: 6.7 % for 1 %. No
    sequence stands out there, so this, and not the share itself, is what concentration begins at.
    """
    normal = NormalDist()
    return normal.pdf(normal.inv_cdf(1 - share)) / normal.pdf(0.0) if share < 0.5 else 1.0
