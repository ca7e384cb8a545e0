"""A figure for papers: PNG and SVG by matplotlib, of the same marks that the page has."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from typing import TYPE_CHECKING, NamedTuple

from rayinfluence.errors import ConfigError
from rayinfluence.report.pictures.figure import Figure, Series, Tone
from rayinfluence.report.text import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Inches, and dots of an inch; a row of bars takes so much.
_WIDTH, _HEIGHT, _DOTS, _ROW, _ROOM = 6.4, 3.8, 200, 0.24, 1.3
#: Those of the page in its light theme.
_COLOURS: dict[Tone, str] = {
    "raises": "#00857c",
    "lowers": "#ce4828",
    "plain": "#1d1c1a",
    "chance": "#466eb4",
    "quiet": "#a09b91",
}
_DASHES = ("-", "--", ":", "-.")
_LINE_OF_TITLE, _LINE_OF_LABEL = 88, 40
_NO_GLYPH = r"Glyph \d+ .*missing from font"
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "svg.hashsalt": "rayinfluence",  # ids of its elements are random otherwise
    "svg.fonttype": "none",
    "text.usetex": False,
    "text.parse_math": False,  # a dollar in a title is one
}


def refuse_no_matplotlib() -> None:
    """Say what to install where there is no matplotlib.

    Raises:
        ConfigError: there is none.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "plot: pictures for papers are drawn with matplotlib, which is not here: "
            "pip install 'rayinfluence[plot]'. The page of `rayinfluence report` has the same "
            "pictures without it."
        ) from error


class Drawn(NamedTuple):
    """The bytes of files by their endings, and whether letters in the PNG are boxes.

    They are where matplotlib's font does not have them; in the SVG they are text.
    """

    files: dict[str, bytes]
    has_boxes: bool


def draw_files(figure: Figure, dots: int = _DOTS) -> Drawn:
    """The figure as a PNG, of so many dots an inch, and as an SVG; equal ones give equal bytes."""
    # The object-oriented interface alone: pyplot would look for a screen.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    rows = figure.y.high if figure.name in ("groups", "tokens") else 0.0
    with (
        mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.filterwarnings("always", _NO_GLYPH)
        height = _ROOM + _ROW * rows if rows else _HEIGHT
        canvas = Canvas(figsize=(_WIDTH, height), dpi=dots, layout="constrained")
        FigureCanvasAgg(canvas)
        _draw(figure, canvas.add_subplot())
        if sum(bool(series.name and series.marks) for series in figure.series) > 1:
            canvas.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        files = {}
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            sink = io.BytesIO()
            canvas.savefig(sink, format=ending, metadata=metadata, bbox_inches="tight")
            files[ending] = sink.getvalue()
    return Drawn(files, any(re.match(_NO_GLYPH, str(one.message)) for one in warned))


def _draw(figure: Figure, axes: Axes) -> None:
    axes.set_title("\n".join(textwrap.wrap(shorten(figure.title, 300), _LINE_OF_TITLE)), loc="left")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(figure.x.label)
    axes.set_ylabel("\n".join(textwrap.wrap(figure.y.label, _LINE_OF_LABEL)))
    axes.set_xticks(
        [figure.x.place(at) for at, _ in figure.x.ticks], [t for _, t in figure.x.ticks]
    )
    axes.set_yticks(
        [figure.y.place(at) for at, _ in figure.y.ticks], [t for _, t in figure.y.ticks]
    )
    axes.spines[["top", "right"]].set_visible(False)
    if figure.y.low < 0 < figure.y.high:
        axes.axhline(figure.y.place(0.0), color=_COLOURS["quiet"], linewidth=0.6)
    if figure.x.scale == "linear" and figure.x.low < 0 < figure.x.high:
        axes.axvline(figure.x.place(0.0), color=_COLOURS["quiet"], linewidth=0.6)
    dashes = iter(_DASHES * len(figure.series))
    for series in figure.series:
        _add(series, figure, axes, next(dashes) if series.shape == "line" else "-")


def _add(series: Series, figure: Figure, axes: Axes, dash: str) -> None:
    if not series.marks:
        return
    colour = _COLOURS[series.tone]
    xs = [tuple(map(figure.x.place, mark.x)) for mark in series.marks]
    ys = [tuple(map(figure.y.place, mark.y)) for mark in series.marks]
    if series.shape == "bars":
        axes.bar(
            [min(x) for x in xs],
            [max(y) - min(y) for y in ys],
            [max(x) - min(x) for x in xs],
            [min(y) for y in ys],
            align="edge",
            color=colour,
            label=series.name,
        )
    elif series.shape == "points":
        middles = [(sum(x) / 2, sum(y) / 2) for x, y in zip(xs, ys, strict=True)]
        axes.plot(
            *zip(*middles, strict=True),
            "o",
            color=colour,
            markersize=3.5,
            label=series.name,
            clip_on=False,
        )
    elif series.shape == "line":
        middles = [(x[0], sum(y) / 2) for x, y in zip(xs, ys, strict=True)]
        axes.plot(*zip(*middles, strict=True), dash, color=colour, label=series.name)
    else:
        low, high = zip(*ys, strict=True)
        axes.fill_between(
            [x[0] for x in xs], low, high, color=colour, alpha=0.3, linewidth=0, label=series.name
        )
