"""A comparison as one HTML document that needs nothing else."""

from __future__ import annotations

from rayinfluence.report.compare import grids
from rayinfluence.report.compare.comparison import Comparison, Pair
from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.frame import framed
from rayinfluence.report.markup import Html, join, note, tag
from rayinfluence.report.tables import Cell, table
from rayinfluence.report.text import one_line

#: Queries that stand open.
_OPEN = 3


def comparison_page(comparison: Comparison) -> str:
    """The page: what is compared, in what it differs, and each query side by side.

    Equal inputs give equal text. Everything from the results is escaped, and the page's own policy
    forbids requests of any kind and scripts other than its own.
    """
    heading = grids.heading(comparison)
    head = tag(
        "header",
        tag("h1", heading),
        tag("ul", *(tag("li", tag("bdi", one_line(line))) for line in grids.sides(comparison))),
        grid_table(grids.differing(comparison)),
    )
    reading = tag(
        "section",
        tag("h2", "How to read this"),
        *(tag("p", line, class_="quiet") for line in grids.how_to_read(comparison)),
    )
    numbers = range(len(comparison.pairs))
    pairs = [_pair(n, pair, comparison) for n, pair in zip(numbers, comparison.pairs, strict=True)]
    main = tag("main", *pairs, reading, id="main")
    return framed(heading, head, main, fingerprint="")


def _pair(number: int, pair: Pair, comparison: Comparison) -> Html:
    a, b = pair.sides
    title = Html() if comparison.of_one else tag("h2", f"{b.letter} beside {a.letter}")
    said = join(tag("p", line, class_="warning") for line in (*pair.notes, *pair.others))
    if not pair.queries:
        empty = tag("p", grids.NOTHING)
        return tag("section", title, said, empty)
    summary = Html()
    if len(pair.queries) > 1:
        summary = join((grid_table(grids.summary(pair)), note(grids.over_all(pair))))
    queries = [
        tag(
            "details",
            tag(
                "summary",
                tag("h2", *_lines(grids.questions(one))),
            ),
            *(tag("p", line) for line in grids.sentences(pair, one)),
            *(grid_table(grids.hit_grid(pair, one, hits)) for hits in one.hits),
            *(grid_table(grid) for grid in grids.group_grids(pair, one, groups)),
            class_="query",
            id=f"c{number + 1}-{place}",
            open=place <= _OPEN,
        )
        for place, (one, groups) in enumerate(pair.queries, start=1)
    ]
    return tag("section", title, said, summary, *queries)


def _lines(lines: list[str]) -> list[Html]:
    return [tag("div", tag("bdi", line)) for line in lines]


def grid_table(grid: Grid) -> Html:
    """A table with its title, if it has rows."""
    if not grid.rows:
        return Html()
    rows = [[Cell(tag("bdi", cell)) for cell in row] for row in grid.rows]
    return join((tag("h3", grid.title), table(grid.title, grid.heads, rows)))
