"""How much of all positive influence the first few sequences hold, beside random signs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayinfluence.influence.concentration import share_of_largest, shares_of_random_signs
from rayinfluence.report.pictures.figure import Figure, Mark, Series, linear, logarithmic
from rayinfluence.report.pictures.seen import Seen, some
from rayinfluence.report.text import count, percent

#: Of the coins, and how often they are thrown: 95 % of the draws leave out five on each side.
_SEED, _DRAWS = 0, 200
_QUANTILES = (0.025, 0.5, 0.975)
#: Places of the curve, evenly on a scale of sizes.
_PLACES = 40


def concentration(seen: Seen) -> Figure | None:
    """The curve, with a band for scores whose signs are random; None where nothing is positive."""
    positive, negative = seen.tail("proponent"), seen.tail("opponent")
    if not positive.count:
        return None
    n, shown = positive.count, len(seen.proponents)
    places = np.unique(
        np.append(np.round(np.geomspace(1, n, _PLACES)), min(max(shown, 1), n)).astype(np.int64)
    )
    held = [share_of_largest(positive, int(k)) or (0.0, 0.0) for k in places]
    has_null = negative.count > 0
    null = _null(shares_of_random_signs(positive, negative, places, _DRAWS, _SEED))
    curve = tuple(
        Mark(
            (float(k), float(k)),
            (share - error, share + error),
            f"the first {count(int(k))}: {percent(share)}{_margin(error)}"
            + (f"; random signs {percent(low)} to {percent(high)}" if has_null else ""),
        )
        for k, (share, error), (low, _, high) in zip(places, held, null, strict=True)
    )
    band = tuple(
        Mark((float(k), float(k)), (low, high), "")
        for k, (low, _, high) in zip(places, null, strict=True)
    )
    series = [Series("share of all positive scores", "line", "raises", curve)]
    if has_null:
        series.insert(0, Series("with random signs (95 %)", "band", "chance", band))
    rows = tuple(
        (int(k), share, error, *((low, middle, high) if has_null else (None, None, None)))
        for k, (share, error), (low, middle, high) in zip(places, held, null, strict=True)
    )
    at = int(np.searchsorted(places, min(max(shown, 1), n)))
    return Figure(
        "concentration",
        _title(seen, held[at], null[at] if has_null else None),
        logarithmic("sequences with the largest scores", 1.0, float(max(n, 2))),
        linear("share of the sum of positive scores", [1.0]),
        tuple(series),
        tuple(_notes(has_null, max(error for _, error in held))),
        ("largest", "share", "error", "random signs, 2.5 %", "median", "97.5 %"),
        rows,
    )


def _null(shares_DK: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    return [
        (float(low), float(middle), float(high))
        for low, middle, high in np.nanquantile(shares_DK, _QUANTILES, axis=0).T
    ]


def _title(seen: Seen, held: tuple[float, float], null: tuple[float, float, float] | None) -> str:
    share, _ = held
    n = len(seen.proponents)
    who = f"The first {some(seen.proponents)} hold" if n != 1 else "The first proponent holds"
    text = f"{who} {share:.1%} of all positive influence"
    if null is None:
        return text
    low, _, high = null
    between = f"{low:.1%} to {high:.1%}"
    if share > high:
        return f"{text}, more than random signs would give them ({between})"
    if share < low:
        return f"{text}, less than random signs would give them ({between})"
    return f"{text}, as they would with random signs ({between})"


def _notes(has_null: bool, error: float) -> list[str]:
    notes = [
        f"From a histogram of all scores of the scan; the curve is right to {100 * error:.1g} "
        "percentage points at its worst, and exact where bins end."
        if error
        else "From a histogram of all scores of the scan; all of these places are ends of bins."
    ]
    if has_null:
        notes.append(
            "The band: sizes of scores stay, and a fair coin gives each its sign "
            f"({_DRAWS} draws; sizes are means of bins, which are 4.5 % wide). A curve within it "
            "says that what raises is as uneven as what lowers."
        )
    return notes


def _margin(error: float) -> str:
    return f" ± {100 * error:.2g} points" if error >= 5e-4 else ""
