"""Lines and tables of the terminal whose texts others may have written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rayinfluence.display import Column, Part, Table
from rayinfluence.report.text import isolates, one_line

if TYPE_CHECKING:
    from rayinfluence.report.compare.grids import Grid


def isolated(text: Text) -> Text:
    """A text that keeps to itself in which direction it runs."""
    before, after = isolates(text.plain)
    return Text.assemble(before, text, after)


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
