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
    parts: list[Part] = [_line(line) for line in grids.sides(comparison)]
    parts += _grid(grids.differing(comparison))
    for pair in comparison.pairs:
        if not comparison.of_one:
            a, b = pair.sides
            parts += ["", _line(f"{b.letter} beside {a.letter}", "bold")]
        parts += _pair(pair)
    return [*parts, "", *(_line(line, "dim") for line in grids.how_to_read(comparison))]


def _pair(pair: Pair) -> list[Part]:
    parts: list[Part] = [_line(line, "yellow") for line in (*pair.notes, *pair.others)]
    if not pair.queries:
        return [*parts, _line(grids.NOTHING, "yellow")]
    if len(pair.queries) > 1:
        parts += [*_grid(grids.summary(pair)), _line(grids.over_all(pair))]
    for one, groups in pair.queries[:_QUERIES]:
        parts += ["", *(_line(line, "bold") for line in grids.questions(one))]
        parts += [_line(line) for line in grids.sentences(pair, one)]
        shown = [grids.hit_grid(pair, one, hits) for hits in one.hits]
        for grid in (*shown, *grids.group_grids(pair, one, groups)):
            parts += _grid(grid)
    rest = len(pair.queries) - _QUERIES
    if rest > 0:
        parts += ["", f"and {count(rest)} more queries: --query shows one, the page and --json all"]
    return parts


def _line(text: str, style: str = "") -> Text:
    return isolated(Text(one_line(text), style))


def _grid(grid: Grid) -> list[Part]:
    if not grid.rows:
        return []
    columns = [
        Column(one_line(head), number=place >= grid.names, wide=place == 0 and grid.names == 1)
        for place, head in enumerate(grid.heads)
    ]
    return ["", Table(columns, [[_line(cell) for cell in row] for row in grid.rows], grid.title)]
