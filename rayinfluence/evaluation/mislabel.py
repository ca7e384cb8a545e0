"""Does a score find wrong labels? Known ones are among what it is asked to put in order.

N line, each with a score and with whether its label was changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayinfluence.influence.correlations import mean_ranks


def area(scores_N: NDArray[np.float64], changed_N: NDArray[np.bool_]) -> float:
    """Under the ROC curve: how often a changed line is before another; ties count half.

    Mann & Whitney's U over the number of pairs, so that 0.5 is chance. NaN where all lines, or
    none, are changed.
    """
    n = int(changed_N.sum())
    pairs = n * (len(scores_N) - n)
    ranks_N = mean_ranks(scores_N[:, None])[:, 0]
    above = float(ranks_N[changed_N].sum()) - n * (n + 1) / 2
    return above / pairs if pairs else float("nan")


def found_first(scores_N: NDArray[np.float64], changed_N: NDArray[np.bool_]) -> float:
    """The share of changed lines among as many of the largest scores as there are changed lines.

    By chance it is their share of all lines. NaN where none is changed.
    """
    n = int(changed_N.sum())
    first_n = np.argsort(-scores_N, kind="stable")[:n]
    return float(changed_N[first_n].mean()) if n else float("nan")
