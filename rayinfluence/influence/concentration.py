"""How much of a query's influence few sequences hold, from the histogram of all scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

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
