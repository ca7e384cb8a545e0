"""What the best of a random sample say of the best of all.

A sequence that is among the first K of all N is in a sample of n, drawn without replacement, with
probability n / N, whatever K is: no sample finds the top of the whole. What it does find are
sequences of high rank. The best of the sample is not among the first K of all if none of those was
drawn, which happens with probability C(N - K, n) / C(N, n).
"""

from __future__ import annotations

from math import lgamma, log

from rayinfluence.influence.recall import CONFIDENCE


def best_share(n: int, n_all: int, confidence: float = CONFIDENCE) -> float:
    """The share K / N of all that the best of a sample is among, with such a probability.

    Args:
        n: of the sample.
        n_all: of all.
        confidence: the probability.
    """
    limit = log(1 - confidence)
    low, high = 1, n_all
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _log_missed(n, n_all, middle) <= limit else (middle + 1, high)
    return low / n_all


def _log_missed(n: int, n_all: int, n_top: int) -> float:
    """The logarithm of the probability that none of the top is drawn."""
    if n > n_all - n_top:
        return float("-inf")
    rest = n_all - n_top
    return lgamma(rest + 1) - lgamma(rest - n + 1) - lgamma(n_all + 1) + lgamma(n_all - n + 1)
