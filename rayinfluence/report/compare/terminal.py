"""A comparison as lines and tables of the terminal."""

from __future__ import annotations

from rich.text import Text

from rayinfluence.display import Column, Part, Table
from rayinfluence.report.compare import grids
from rayinfluence.report.compare.comparison import Comparison, Pair
from rayinfluence.report.compare.grids import Grid
from rayinfluence.report.terminal import isolated
from rayinfluence.report.text import count, one_line

#: Queries whose hits are printed; of all there is the summary.
_QUERIES = 5


def comparison_parts(comparison: Comparison) -> list[Part]:
    """What sides are, how much they have in common, and the first hits side by side.

    Args:
        comparison: of results.
    """
    parts: list[Part] = [line(text) for text in grids.sides(comparison)]
    parts += grid_parts(grids.differing(comparison))
    for pair in comparison.pairs:
        if not comparison.of_one:
            a, b = pair.sides
            parts += ["", line(f"{b.letter} beside {a.letter}", "bold")]
        parts += _pair(pair)
    return [*parts, "", *(line(text, "dim") for text in grids.how_to_read(comparison))]


def _pair(pair: Pair) -> list[Part]:
    parts: list[Part] = [line(text, "yellow") for text in (*pair.notes, *pair.others)]
    if not pair.queries:
        return [*parts, line(grids.NOTHING, "yellow")]
    if len(pair.queries) > 1:
        parts += [*grid_parts(grids.summary(pair)), line(grids.over_all(pair))]
    for one, groups in pair.queries[:_QUERIES]:
        parts += ["", *(line(text, "bold") for text in grids.questions(one))]
        parts += [line(text) for text in grids.sentences(pair, one)]
        shown = [grids.hit_grid(pair, one, hits) for hits in one.hits]
        for grid in (*shown, *grids.group_grids(pair, one, groups)):
            parts += grid_parts(grid)
    rest = len(pair.queries) - _QUERIES
    if rest > 0:
        parts += ["", f"and {count(rest)} more queries: --query shows one, the page and --json all"]
    return parts


def line(text: str, style: str = "") -> Text:
    """A line of text, which others may have written."""
    return isolated(Text(one_line(text), style))


def grid_parts(grid: Grid) -> list[Part]:
    """A table with its title, if it has rows."""
    if not grid.rows:
        return []
    columns = [
        Column(one_line(head), number=place >= grid.names, wide=place == 0 and grid.names == 1)
        for place, head in enumerate(grid.heads)
    ]
    return ["", Table(columns, [[line(cell) for cell in row] for row in grid.rows], grid.title)]
