"""A mean over seeds, and how sure it is.

Models that were trained alike but for their seed disagree on what mattered: the score of one of
them is a draw from a distribution, and the mean of several an estimate of its mean (Mlodozeniec et
al. 2025).

S seed, N sequence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


def over_seeds(scores_SN: Scores) -> tuple[Scores, Scores]:
    """Means and their standard errors [N], in the unit of the scores.

    The error is sqrt(sum of (score - mean)^2 / (S (S - 1))); there are two seeds at least. Where a
    seed has no score (NaN) there is neither.
    """
    n_seeds = len(scores_SN)
    means: Scores = scores_SN.mean(axis=0)
    errors: Scores = scores_SN.std(axis=0, ddof=1) / np.sqrt(n_seeds)
    return means, errors
