"""Means over queries with an interval that says how far other queries would move them.

It is about queries like these, asked of this model and this corpus; neither another seed of
training nor another corpus is in it. Of few queries it is too narrow: of 10 it holds the true mean
in about 90 of 100 cases.

Q query.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayinfluence.influence.intervals import mean_and_ends
from rayinfluence.storage.results.evaluated import Interval


def mean_interval(values_Q: NDArray[np.float64], seed: int = 0) -> Interval | None:
    """The mean of what was measured of each query; None where nothing was.

    Args:
        values_Q: NaN for queries of which there is no value: they are left out, and `Interval.n`
            says of how many the mean is.
        seed: of the draws.
    """
    found = mean_and_ends(values_Q, seed)
    return None if found is None else Interval(*found)


def paired_difference(
    ours_Q: NDArray[np.float64], theirs_Q: NDArray[np.float64], seed: int = 0
) -> Interval | None:
    """How much larger one is than the other on average, of the queries that have both.

    Both were measured on the same queries, and what they have in common falls out: the interval is
    shorter than those of the two means suggest.
    """
    return mean_interval(ours_Q - theirs_Q, seed)
