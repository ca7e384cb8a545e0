"""Correlations of columns, Pearson's and Spearman's, and an area, which is of ranks, too.

Ties are at their mean rank.

S what is compared (subsets, groups, pairs), Q query.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mean_ranks(values_SQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks within each column, from 1; equal values have the mean of the ranks that they take."""
    ranks_SQ = np.empty(values_SQ.shape)
    for column, values_S in enumerate(values_SQ.T):
        _, place_S, counts = np.unique(values_S, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        ranks_SQ[:, column] = (last - (counts - 1) / 2)[place_S]
    return ranks_SQ


def pearson(ours_SQ: NDArray[np.float64], theirs_SQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """The correlation of each column of one with that of the other [Q].

    NaN where a column is constant, of fewer than two values, or not finite: there is none then.
    """
    ours, theirs = (
        values - values.mean(axis=0) if len(values) else values for values in (ours_SQ, theirs_SQ)
    )
    # Scaled first, so that squares of the smallest and the largest numbers are numbers.
    with np.errstate(invalid="ignore", divide="ignore"):
        ours, theirs = (one / np.abs(one).max(axis=0, initial=0.0) for one in (ours, theirs))
        scale_Q = np.sqrt((ours**2).sum(axis=0) * (theirs**2).sum(axis=0))
        found_Q: NDArray[np.float64] = (ours * theirs).sum(axis=0) / scale_Q
    return np.clip(found_Q, -1.0, 1.0)


def spearman(ours_SQ: NDArray[np.float64], theirs_SQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank correlation of each column of one with that of the other [Q]; NaN as `pearson`."""
    ranked_Q = pearson(mean_ranks(ours_SQ), mean_ranks(theirs_SQ))
    finite_Q = np.isfinite(ours_SQ).all(axis=0) & np.isfinite(theirs_SQ).all(axis=0)
    return np.where(finite_Q, ranked_Q, np.nan)


def area(scores_N: NDArray[np.float64], wanted_N: NDArray[np.bool_]) -> float:
    """Under the ROC curve: how often what is wanted is above something else; ties count half.

    Mann & Whitney's U over the number of pairs, so that 0.5 is chance. NaN where all are wanted, or
    none is.

    Args:
        scores_N: of each.
        wanted_N: which are.
    """
    n = int(wanted_N.sum())
    pairs = n * (len(scores_N) - n)
    ranks_N = mean_ranks(scores_N[:, None])[:, 0]
    above = float(ranks_N[wanted_N].sum()) - n * (n + 1) / 2
    return above / pairs if pairs else float("nan")
