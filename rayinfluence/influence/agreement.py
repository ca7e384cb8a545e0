"""How far raters agree: Krippendorff's alpha, of categories and of an ordered scale.

Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability". Raters may leave units out; a unit
that fewer than two have rated says nothing of agreement.

C category, U unit, R rater, B draw.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: Of a unit that a rater has left out.
MISSING = -1

Scale = Literal["nominal", "ordinal"]


def coincidences(ratings_RU: NDArray[np.int64], n_categories: int) -> NDArray[np.float64]:
    """How often each two categories were given to a unit by two raters [U, C, C].

    Both orders of a pair count, and all pairs of a unit that m have rated weigh 1 / (m - 1), so
    that a unit counts as often as it was rated. What several units have in common is their sum.

    Args:
        ratings_RU: a category's number, or `MISSING`.
        n_categories: that there are.
    """
    given_UC = np.stack([(ratings_RU == c).sum(axis=0) for c in range(n_categories)], axis=1)
    pairs_UCC = (given_UC[:, :, None] * given_UC[:, None, :]).astype(np.float64)
    own = np.arange(n_categories)
    pairs_UCC[:, own, own] -= given_UC
    others_U = given_UC.sum(axis=1) - 1
    # A unit that one has rated has no pairs: what it is divided by does not matter.
    found: NDArray[np.float64] = pairs_UCC / np.maximum(others_U, 1)[:, None, None]
    return found


def alpha(coincidences_BCC: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """One less what raters disagree over what chance would make them disagree [B].

    1 is agreement, 0 what chance gives; NaN where all ratings are one category, or there are none:
    then nothing could disagree.

    Args:
        coincidences_BCC: sums over units.
        scale: ordinal categories are in their order, and two are as far apart as there are ratings
            between them.
    """
    totals_BC = coincidences_BCC.sum(axis=-1)
    n_B = totals_BC.sum(axis=-1)
    apart_BCC = _apart(totals_BC, scale)
    observed_B = (coincidences_BCC * apart_BCC).sum(axis=(-2, -1))
    expected_B = (totals_BC[:, :, None] * totals_BC[:, None, :] * apart_BCC).sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = 1 - (n_B - 1) * observed_B / expected_B
    return np.where(expected_B > 0, found, np.nan)


def _apart(totals_BC: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """The squared distance of each two categories."""
    n = totals_BC.shape[-1]
    if scale == "nominal":
        return np.broadcast_to(1.0 - np.eye(n), (len(totals_BC), n, n))
    # Ratings up to the middle of each category: their difference is the sum over both and between,
    # less half of each end.
    middles_BC = np.cumsum(totals_BC, axis=-1) - totals_BC / 2
    apart_BCC: NDArray[np.float64] = (middles_BC[:, :, None] - middles_BC[:, None, :]) ** 2
    return apart_BCC
