"""Does a score find wrong labels? Known ones are among what it is asked to put in order.

N line, each with a score and with whether its label was changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def found_first(scores_N: NDArray[np.float64], changed_N: NDArray[np.bool_]) -> float:
    """The share of changed lines among as many of the largest scores as there are changed lines.

    By chance it is their share of all lines. NaN where none is changed.
    """
    n = int(changed_N.sum())
    first_n = np.argsort(-scores_N, kind="stable")[:n]
    return float(changed_N[first_n].mean()) if n else float("nan")
