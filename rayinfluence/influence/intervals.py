"""Means of what was measured, with the ends of an interval by drawing it again.

The percentile bootstrap (Efron 1979): what was measured of Q things is drawn Q times with
replacement, again and again, and the interval holds the middle 95 % of the means.

C value of a thing, Q thing (a query), B draw of the bootstrap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
#: The ends of an interval then change by less than a twentieth of its length from seed to seed.
DRAWS = 4000
#: Numbers that are drawn at once.
_AT_ONCE = 2**22


def mean_and_ends(
    values_Q: NDArray[np.float64], seed: int = 0
) -> tuple[float, float | None, float | None, int] | None:
    """The mean, the ends of its interval, and of how many it is; None of nothing.

    Args:
        values_Q: NaN where nothing was measured: those are left out. A single value has no ends.
        seed: of the draws.
    """
    found = values_Q[np.isfinite(values_Q)]
    if not len(found):
        return None
    mean, n = float(found.mean()), len(found)
    if n == 1:
        return mean, None, None, n
    low, high = percentiles(draws(found[None], seed)[0] / n)
    return mean, low, high, n


def draws(values_CQ: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Sums over things that are drawn with replacement, of several values at once [C, B].

    Args:
        values_CQ: C values of each thing, which is drawn with all of them.
        seed: the same draws for the same seed and number of things.
    """
    n = values_CQ.shape[1]
    generator = np.random.Generator(np.random.Philox(seed))
    found = np.empty((len(values_CQ), DRAWS))
    step = max(1, _AT_ONCE // max(1, n))
    for start in range(0, DRAWS, step):
        stop = min(start + step, DRAWS)
        drawn_Bn = generator.integers(0, n, (stop - start, n))
        # How often each was drawn, and then a product: several times as fast as to look each up.
        places_Bn = drawn_Bn + n * np.arange(stop - start)[:, None]
        counts_Bn = np.bincount(places_Bn.ravel(), minlength=places_Bn.size).reshape(drawn_Bn.shape)
        found[:, start:stop] = values_CQ @ counts_Bn.T
    return found


def percentiles(values_B: NDArray[np.float64]) -> tuple[float, float]:
    """What holds the middle of some draws, a share of `CONFIDENCE`."""
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values_B, [outside, 100 - outside])
    return float(low), float(high)
