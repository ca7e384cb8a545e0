"""Bars to both sides of zero, one below the other: what raises to the right, what lowers left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayinfluence.report.pictures.figure import Mark, Series


@dataclass(frozen=True)
class SignedBar:
    """A name with what it has above and below zero, in words too, and what it filters by."""

    above: float
    below: float
    says: str
    value: tuple[str, str] | None = None


def signed_bars(bars: Sequence[SignedBar], nets: str) -> tuple[Series, ...]:
    """The bars as marks, the first one uppermost, and a dot where both sides add up to.

    Args:
        bars: from above to below.
        nets: what the dots are called.
    """
    n = len(bars)
    places = [n - 1 - place for place in range(n)]

    def drawn(ends: Sequence[float]) -> tuple[Mark, ...]:
        return tuple(
            Mark((min(end, 0.0), max(end, 0.0)), (place + 0.15, place + 0.85), bar.says, bar.value)
            for bar, place, end in zip(bars, places, ends, strict=True)
            if end
        )

    dots = tuple(
        Mark((bar.above + bar.below,) * 2, (place + 0.5,) * 2, bar.says, bar.value)
        for bar, place in zip(bars, places, strict=True)
    )
    return (
        Series("raises", "bars", "raises", drawn([bar.above for bar in bars])),
        Series("lowers", "bars", "lowers", drawn([bar.below for bar in bars])),
        Series(nets, "points", "plain", dots),
    )
