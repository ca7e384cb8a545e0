"""A figure as SVG inside the page: classes for colours, numbers on hover and focus, its table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rayinfluence.report.markup import Html, tag
from rayinfluence.report.pictures.figure import Cell, Figure, Mark, Series
from rayinfluence.report.tables import scrolled
from rayinfluence.report.text import count, shorten

#: The drawing in its own units, which are about pixels, and the room around its plot.
_WIDTH, _TOP, _RIGHT, _BOTTOM = 480.0, 24.0, 22.0, 38.0
_HEIGHT, _ROW = 260.0, 20.0
#: Of a character of a label, and the room for labels on the left, at least and at most.
_CHARACTER, _LEFT, _MOST_LEFT = 6.2, 44.0, 160.0
_TALL = {"groups", "tokens", "lds", "pattern"}
_DASHES = (None, "6 3", "2 3", "8 3 2 3")
_DOT = 3.5
#: Of the table behind it, rows that a page holds.
_ROWS = 100


def draw(figure: Figure) -> Html:
    """A figure with its caption, drawing, legend, notes, and the table folded away."""
    return tag(
        "figure",
        tag("figcaption", figure.title),
        _drawing(figure),
        tag("p", class_="read-out", aria_hidden="true"),
        _legend(figure.series),
        *(tag("p", note, class_="quiet") for note in figure.notes),
        _table(figure),
        class_=f"picture of-{figure.name}",
    )


class _Plane:
    """Where values of a figure are in its drawing."""

    def __init__(self, figure: Figure) -> None:
        self.x, self.y = figure.x, figure.y
        widest = max((len(text) for _, text in figure.y.ticks), default=0)
        self.left = min(_MOST_LEFT, max(_LEFT, 12 + _CHARACTER * widest))
        rows = figure.y.high if figure.name in _TALL else 0
        self.bottom = _TOP + (_ROW * rows if rows else _HEIGHT - _TOP - _BOTTOM)
        self.right = _WIDTH - _RIGHT
        self.height = self.bottom + _BOTTOM

    def at_x(self, value: float) -> float:
        return self.left + (self.right - self.left) * self.x.place(value)

    def at_y(self, value: float) -> float:
        return self.bottom - (self.bottom - _TOP) * self.y.place(value)


def _drawing(figure: Figure) -> Html:
    plane = _Plane(figure)
    dashes = iter(_DASHES * len(figure.series))
    parts = [_axes(plane)]
    first = True
    for series in figure.series:
        dash = next(dashes) if series.shape == "line" else None
        parts.append(_shape(series, plane, dash))
        for mark in series.marks:
            if mark.says:
                parts.append(_mark(series, mark, plane, first))
                first = False
    return tag(
        "svg",
        *parts,
        class_="drawing",
        viewBox=f"0 0 {_WIDTH:g} {plane.height:g}",
        role="group",
        aria_label=figure.title,
    )


def _axes(plane: _Plane) -> Html:
    parts = []
    for value, text in _spaced(plane):
        at = _number(plane.at_x(value))
        parts += [
            tag("line", x1=at, x2=at, y1=_number(_TOP), y2=_number(plane.bottom), class_="grid"),
            tag("text", text, x=at, y=_number(plane.bottom + 15), text_anchor="middle"),
        ]
    for value, text in plane.y.ticks:
        x, y = _number(plane.left - 6), _number(plane.at_y(value) + 4)
        parts.append(tag("text", text, x=x, y=y, text_anchor="end"))
    zero_y = plane.bottom if plane.y.scale == "log" else plane.at_y(0.0)
    zero_x = plane.left if plane.x.scale == "log" else plane.at_x(0.0)
    left, right = _number(plane.left), _number(plane.right)
    top, bottom = _number(_TOP), _number(plane.bottom)
    parts += [
        tag("line", x1=left, x2=right, y1=_number(zero_y), y2=_number(zero_y), class_="zero"),
        tag("line", x1=_number(zero_x), x2=_number(zero_x), y1=top, y2=bottom, class_="zero"),
        tag("text", plane.x.label, x=right, y=_number(plane.bottom + 31), text_anchor="end"),
        tag("text", plane.y.label, x="2", y="14"),
    ]
    return tag("g", *parts, class_="axes", aria_hidden="true")


def _spaced(plane: _Plane) -> Sequence[tuple[float, str]]:
    """The ticks of x, as many of them as have room beside each other."""
    ticks = plane.x.ticks
    widest = max((_CHARACTER * len(text) for _, text in ticks), default=0.0) + 8
    room = max(1, int((plane.right - plane.left) / widest))
    return ticks[:: max(1, math.ceil(len(ticks) / room))]


def _shape(series: Series, plane: _Plane, dash: str | None) -> Html:
    """What a series is as a whole: its line or its band; bars and points are their marks."""
    if series.shape == "line":
        middles = [(mark.x[0], sum(mark.y) / 2) for mark in series.marks]
        path = " ".join(_point(plane, x, y) for x, y in middles)
        return tag("polyline", points=path, class_=f"line {series.tone}", stroke_dasharray=dash)
    if series.shape == "band":
        upper = [_point(plane, mark.x[0], mark.y[1]) for mark in series.marks]
        lower = [_point(plane, mark.x[0], mark.y[0]) for mark in reversed(series.marks)]
        return tag("polygon", points=" ".join([*upper, *lower]), class_=f"band {series.tone}")
    return Html()


def _point(plane: _Plane, x: float, y: float) -> str:
    return f"{_number(plane.at_x(x))},{_number(plane.at_y(y))}"


def _mark(series: Series, mark: Mark, plane: _Plane, first: bool) -> Html:
    """A mark that says its numbers: by its title, and below the drawing where the page's script is.

    One of them is reached by the key for it; the script goes on from there with arrows.
    """
    left, right = sorted((plane.at_x(mark.x[0]), plane.at_x(mark.x[1])))
    top, bottom = sorted((plane.at_y(mark.y[0]), plane.at_y(mark.y[1])))
    if series.shape == "bars":
        shape = tag(
            "rect",
            x=_number(left),
            y=_number(top),
            width=_number(max(right - left - 0.5, 0.5)),
            height=_number(max(bottom - top, 0.5)),
            class_=series.tone,
        )
    else:
        kind = "spot" if series.shape == "line" else series.tone
        shape = tag(
            "circle",
            cx=_number((left + right) / 2),
            cy=_number((top + bottom) / 2),
            r=_number(_DOT),
            class_=kind,
        )
    key, value = mark.value or (None, None)
    return tag(
        "g",
        tag("title", mark.says),
        shape,
        class_="mark",
        tabindex="0" if first else None,
        role="img",
        data_group=key,
        data_value=value,
    )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _legend(series: Sequence[Series]) -> Html:
    named = [one for one in series if one.name and one.marks]
    if len(named) < 2:
        return Html()
    dashes = iter(_DASHES * len(series))
    items = []
    for one in named:
        dash = next(dashes) if one.shape == "line" else None
        items.append(tag("li", _key(one, dash), tag("bdi", one.name)))
    return tag("ul", *items, class_="legend")


def _key(series: Series, dash: str | None) -> Html:
    if series.shape == "points":
        shape = tag("circle", cx="9", cy="6", r=_number(_DOT), class_=series.tone)
    elif series.shape == "line":
        shape = tag(
            "polyline", points="0,6 18,6", class_=f"line {series.tone}", stroke_dasharray=dash
        )
    else:
        kind = "band " * (series.shape == "band") + series.tone
        shape = tag("rect", x="3", y="1", width="12", height="10", class_=kind)
    return tag("svg", shape, viewBox="0 0 18 12", class_="key", aria_hidden="true")


def _table(figure: Figure) -> Html:
    head = tag("tr", *(tag("th", name, scope="col") for name in figure.heads))
    rows = [
        tag("tr", tag("th", _cell(row[0]), scope="row"), *(tag("td", _cell(c)) for c in row[1:]))
        for row in figure.rows[:_ROWS]
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    n, rest = len(figure.rows), len(figure.rows) - len(rows)
    more = f"{count(rest)} more rows: {figure.elsewhere}"
    return tag(
        "details",
        tag("summary", f"The numbers ({count(n)} row{'s' * (n != 1)})"),
        scrolled(figure.title, table),
        tag("p", more, class_="quiet") if rest else "",
        class_="fold",
    )


def _cell(cell: Cell) -> Html | str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return tag("bdi", shorten(cell, 60))
    if isinstance(cell, int):
        return str(cell)
    return f"{cell:.6g}"
