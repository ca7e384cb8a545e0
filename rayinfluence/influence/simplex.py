"""The least value of a function of few numbers that has no derivative worth having.

P parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def minimise(
    of: Callable[[Vector], float], start_P: Vector, most: int = 600, tolerance: float = 1e-9
) -> tuple[Vector, float]:
    """Where a function is least, by a simplex that walks downhill (Nelder & Mead 1965).

    It finds a minimum near the start, not the least of all: try several starts. Where the function
    has its least value only at infinity, it ends on the way there.

    Args:
        of: the function; infinite or NaN where it is not defined.
        start_P: where it is finite.
        most: how often the function is asked, at most.
        tolerance: it ends where the values at all corners are this close.

    Returns:
        The place and the value there.
    """

    def value(at: Vector) -> float:
        found = of(at)
        return found if math.isfinite(found) else math.inf

    corners = [start_P, *(start_P + step for step in 0.5 * np.eye(len(start_P)))]
    known = [value(one) for one in corners]
    asked = len(corners)
    while asked < most:
        order = np.argsort(known, kind="stable")
        corners, known = [corners[i] for i in order], [known[i] for i in order]
        if known[-1] - known[0] <= tolerance:
            break
        middle = np.mean(corners[:-1], axis=0)
        away = middle - corners[-1]
        tried, found = middle + away, value(middle + away)
        asked += 1
        if found < known[0]:
            further = value(middle + 2 * away)
            asked += 1
            if further < found:
                tried, found = middle + 2 * away, further
        elif found >= known[-2]:
            share = 0.5 if found < known[-1] else -0.5
            worst = min(found, known[-1])
            tried, found = middle + share * away, value(middle + share * away)
            asked += 1
            if found >= worst:
                corners = [corners[0], *((corners[0] + one) / 2 for one in corners[1:])]
                known = [known[0], *map(value, corners[1:])]
                asked += len(corners) - 1
                continue
        corners[-1], known[-1] = tried, found
    best = int(np.argmin(known))
    return corners[best], known[best]
