"""What groups are worth as a picture: dots with their intervals."""

from __future__ import annotations

from rayinfluence.report.pictures.figure import Figure, Mark, Series, Tone, categories, linear
from rayinfluence.report.text import shorten, signed
from rayinfluence.report.valued import grids
from rayinfluence.storage.results.valued import GroupValue, Valued

#: Groups that are drawn, and how many methods, in these tones.
_MOST = 20
_TONES: tuple[Tone, ...] = ("plain", "raises", "chance", "lowers")


def values_figure(found: Valued, place: int) -> Figure:
    """Values of the groups for a utility, by the methods that are in its unit."""
    methods = [
        one for one in found.methods if one.how != "neighbours" and one.values[0][place] is not None
    ][: len(_TONES)]
    cells = [[one.values[g][place] for one in methods] for g in range(len(found.groups))]
    order = sorted(range(len(cells)), key=lambda g: -_ends(cells[g][0])[0])
    most = max(order, key=lambda g: abs(_ends(cells[g][0])[0]))
    shown = order if len(order) <= _MOST else [*order[: _MOST // 2], *order[-_MOST // 2 :]]
    utility, first = found.utilities[place], methods[0]
    series = []
    for number, (one, tone) in enumerate(zip(methods, _TONES, strict=False)):
        # Side by side within the row of a group, the first one uppermost.
        shift = (len(methods) - 1 - number + 0.5) / len(methods)
        bars, dots = [], []
        for row, g in enumerate(shown):
            y = len(shown) - 1 - row + 0.15 + 0.7 * shift
            mean, low, high = _ends(cells[g][number])
            says = f"{found.groups[g].name}, {one.name}: {grids.valued(cells[g][number])}"
            dots.append(Mark.at(mean, y, says))
            if low < high:
                bars.append(Mark((low, high), (y - 0.04, y + 0.04), says))
        series += [
            Series("", "bars", "quiet", tuple(bars)),
            Series(one.name, "points", tone, tuple(dots)),
        ]
    drawn = [end for g in shown for cell in cells[g] for end in _ends(cell)]
    names = [shorten(found.groups[g].name, 22) or "(empty)" for g in shown]
    notes = ["Bars: 95 % intervals, of draws and seeds of training."]
    if len(shown) < len(order):
        notes.append(f"The {_MOST // 2} largest and the {_MOST // 2} smallest of {len(order)}.")
    return Figure(
        "shapley",
        f"{shorten(utility.name, 40)}: “{shorten(found.groups[most].name, 40)}” counts most by "
        f"{first.name}, {signed(_ends(cells[most][0])[0])} {utility.unit}",
        linear(f"value, {utility.unit}", drawn),
        categories(shorten(found.key or "sequence", 40), names[::-1]),
        tuple(series),
        tuple(notes),
        ("group", "method", "value", "low", "high"),
        tuple(
            (found.groups[g].name, one.name, cell.mean, cell.low, cell.high)
            for g in order
            for one, cell in zip(methods, cells[g], strict=True)
            if cell is not None
        ),
        "`shapley.json` beside this page has them.",
    )


def _ends(one: GroupValue | None) -> tuple[float, float, float]:
    """A value and the ends of its interval; itself where it has none."""
    if one is None:
        return 0.0, 0.0, 0.0
    if one.low is None or one.high is None:
        return one.mean, one.mean, one.mean
    return one.mean, one.low, one.high
