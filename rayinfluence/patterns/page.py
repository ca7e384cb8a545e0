"""Patterns as one HTML document that needs nothing else, in the report's frame."""

from __future__ import annotations

from rayinfluence.patterns import sentences
from rayinfluence.patterns.found import Flowing, Found
from rayinfluence.patterns.picture import pattern_figure, skip_figure
from rayinfluence.patterns.sentences import Grid
from rayinfluence.report.frame import framed
from rayinfluence.report.markup import Html, join, tag
from rayinfluence.report.pictures.svg import draw
from rayinfluence.report.tables import Cell, table
from rayinfluence.report.text import one_line

#: Questions that stand open.
_OPEN = 3
_READING = (
    "The influence of a token is how much of the difference of the two logits comes of its being "
    "there rather than the baseline; influences of all tokens add up to what the input changes. A "
    "pattern is a path from a token to where the question is asked, and what flows through it is a "
    "part of that influence: through these tokens by any way, or by one way into each.",
    "A way is a head of attention or the skip connection past them. What is behind attention in a "
    "block belongs to both.",
    "This is about one model and one text. It says how the model comes from the text to its "
    "answer, not which training data made it so.",
)


def patterns_page(found: Found) -> str:
    """The page. Equal inputs give equal text, and what others wrote is escaped."""
    heading = sentences.heading(found)
    head = tag("header", tag("h1", heading), tag("p", sentences.about(found), class_="quiet"))
    reading = tag(
        "section",
        tag("h2", "How to read this"),
        *(tag("p", line, class_="quiet") for line in _READING),
    )
    groups = [
        tag(
            "section",
            tag("h2", sentences.alike(one)),
            *(tag("p", line, class_="warning") for line in sentences.cautions(one)),
            _table(sentences.compression(one)),
        )
        for one in found.groups
        if one.compressed
    ]
    queries = [_query(place, one) for place, one in enumerate(found.flowing)]
    main = tag("main", *groups, *queries, reading, id="main")
    return framed(heading, head, main, fingerprint="")


def _query(place: int, flowing: Flowing) -> Html:
    return tag(
        "details",
        tag("summary", tag("h2", tag("bdi", sentences.asked(flowing)))),
        *(
            tag("p", line, class_="warning" if line.startswith("warning: ") else None)
            for line in sentences.carried(flowing)
        ),
        tag("div", draw(pattern_figure(flowing)), draw(skip_figure(flowing)), class_="pictures"),
        _table(sentences.paths(flowing)),
        class_="query",
        id=f"p{place + 1}",
        open=place < _OPEN,
    )


def _table(grid: Grid) -> Html:
    rows = [[Cell(tag("bdi", one_line(cell))) for cell in row] for row in grid.rows]
    return join((tag("h3", grid.title), table(grid.title, grid.heads, rows)))
