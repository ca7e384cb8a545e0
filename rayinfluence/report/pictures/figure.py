"""A picture as a value: what it shows, its axes, its marks, and the table that they are drawn from.

Whoever draws one (:mod:`svg` for the page, :mod:`paper` for PNG and SVG files) takes its places
from here, so that both draw the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rayinfluence.report.text import count

#: A cell of a table: text, a number, or nothing.
Cell = str | int | float | None
#: What a mark is about: what raises, what lowers, neither, what is expected by chance, and what is
#: beside the point.
Tone = Literal["raises", "lowers", "plain", "chance", "quiet"]


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, with a text at each place of ``ticks``.

    Attributes:
        label: what it measures, with its unit.
        low: where it begins, in the unit.
        high: where it ends.
        ticks: places in the unit, each with what is written there.
        scale: ``linear``; ``log``; or ``mirrored``, a logarithm of sizes to both sides of 0, where
            sizes of 1/2 and less are drawn as 0, so that a count of 1 is seen.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    scale: Literal["linear", "log", "mirrored"] = "linear"

    def place(self, value: float) -> float:
        """Where a value is, from 0 at ``low`` to 1 at ``high``; what is beyond is at the end."""
        low, high, at = (self._drawn(one) for one in (self.low, self.high, value))
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def _drawn(self, value: float) -> float:
        if self.scale == "linear":
            return value
        if self.scale == "log":
            return math.log10(value)
        return math.copysign(math.log10(max(2 * abs(value), 1.0)), value)


@dataclass(frozen=True)
class Mark:
    """A rectangle, or a point where it has no extent, in the units of the axes.

    Attributes:
        x: from and to.
        y: from and to.
        says: its numbers in words.
        value: what it filters by when it is chosen: a metadata key and a value of it.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    says: str
    value: tuple[str, str] | None = None

    @classmethod
    def at(cls, x: float, y: float, says: str) -> Mark:
        """A point."""
        return cls((x, x), (y, y), says)


@dataclass(frozen=True)
class Series:
    """Marks of one kind; without a name it needs no legend.

    ``bars`` are rectangles, ``points`` are dots, a ``line`` goes through the middles of its marks,
    and a ``band`` lies between their ends in y.
    """

    name: str
    shape: Literal["bars", "points", "line", "band"]
    tone: Tone
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Figure:
    """What a picture shows.

    Attributes:
        name: of its kind, with letters of a to z and hyphens.
        title: a sentence that says what is seen.
        x: the axis from left to right.
        y: the axis from below to above.
        series: in the order in which they are drawn.
        notes: sentences on how to read it, and on what is not drawn.
        heads: of the columns of the table behind it.
        rows: of that table.
        elsewhere: where all of them are, when they are too many for a page.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    notes: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    elsewhere: str = "`rayinfluence plot` writes all of them as CSV and JSON."


def linear(label: str, values: Sequence[float], ticks: int = 5) -> Axis:
    """An axis with 0 and all values on it, and about so many round numbers."""
    low, high = min(0.0, *values), max(0.0, *values)
    if low == high:
        high = 1.0
    raw = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    places = [step * place for place in range(first, last + 1)]
    return Axis(label, places[0], places[-1], tuple((one, short(one)) for one in places))


def logarithmic(label: str, low: float, high: float) -> Axis:
    """An axis of positive numbers from one to the other, with powers of ten.

    Where there would be fewer than two of them, with 2 and 5 times those, too.
    """
    if low == high:
        low, high = low / 2, high * 2
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1)
    stride = max(1, math.ceil(len(powers) / 8))
    places = [10.0**power for power in powers if power % stride == 0]
    if sum(low <= place <= high for place in places) < 2:
        places = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = tuple((place, short(place)) for place in places if low <= place <= high)
    return Axis(label, low, high, inside, "log")


def mirrored(label: str, above: int, below: int) -> Axis:
    """An axis of counts to both sides of 0, on a scale of sizes that has 1."""
    sides = []
    for most, sign in ((below, -1), (above, 1)):
        powers = range(math.floor(math.log10(most)) + 1) if most else range(0)
        stride = max(1, math.ceil(len(powers) / 3))
        sides.append([sign * 10**power for power in powers if power % stride == 0])
    places = [*reversed(sides[0]), 0, *sides[1]]
    ticks = tuple((float(one), count(abs(one))) for one in places)
    return Axis(label, -1.4 * below, 1.4 * max(above, 1), ticks, "mirrored")


def categories(label: str, names: Sequence[str]) -> Axis:
    """An axis with a unit of length for each name, and its name in the middle."""
    ticks = tuple((place + 0.5, name) for place, name in enumerate(names))
    return Axis(label, 0.0, float(max(len(names), 1)), ticks)


def short(value: float) -> str:
    """A number for a tick: as few characters as it takes."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.6g}"
