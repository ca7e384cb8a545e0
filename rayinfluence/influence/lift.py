"""How much more often a group is among the most influential than in the corpus, and how sure.

G group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Of the normal distribution: 95 % of it lie within this many standard deviations.
_Z = 1.959963984540054


class Lift(NamedTuple):
    """A group's share of the top over its share of the corpus, with a 95 % interval."""

    lift_G: NDArray[np.float64]
    low_G: NDArray[np.float64]
    high_G: NDArray[np.float64]


def lift(in_top_G: NDArray[np.int64], top: int, counts_G: NDArray[np.int64]) -> Lift:
    """Lifts of groups that share out a corpus.

    The interval is Wilson's, of the share of the top; the share of the corpus is known exactly.

    Args:
        in_top_G: of the top, how many are in each group.
        top: how many the top are, at least one.
        counts_G: sequences in each group; all groups together are the corpus.
    """
    share_G = counts_G / counts_G.sum()
    p_G = in_top_G / top
    middle_G = p_G + _Z**2 / (2 * top)
    half_G = _Z * np.sqrt(p_G * (1 - p_G) / top + _Z**2 / (4 * top**2))
    whole = 1 + _Z**2 / top
    low_G = np.maximum(middle_G - half_G, 0.0) / whole
    high_G = np.minimum((middle_G + half_G) / whole, 1.0)
    return Lift(p_G / share_G, low_G / share_G, high_G / share_G)


def mean_and_error(
    sums_G: NDArray[np.float64], squares_G: NDArray[np.float64], counts_G: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean score of each group's sequences, and its standard error (NaN for one sequence)."""
    mean_G = sums_G / counts_G
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of rounding alone, where all scores are equal, it may come out below zero.
        variance_G = np.maximum(squares_G - counts_G * mean_G**2, 0.0) / (counts_G - 1)
        error_G = np.sqrt(variance_G / counts_G)
    return mean_G, np.where(counts_G > 1, error_G, np.nan)
