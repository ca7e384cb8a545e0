"""Tables that can be sorted where there is script, and scroll by keyboard where they are wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rayinfluence.report.markup import Html, tag


class Cell(NamedTuple):
    """What a cell shows, and what it is sorted by: its text where nothing else is told."""

    shown: str
    value: str | float | None = None


def table(label: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """Rows under heads; the first cell of a row is what the row is about.

    Args:
        label: what the table is called by who does not see it.
        heads: of the columns.
        rows: of as many cells.
    """
    made = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag(
            "tbody",
            *(
                tag("tr", tag("th", first.shown, scope="row"), *map(_cell, others))
                for first, *others in rows
            ),
        ),
        class_="sortable",
    )
    return scrolled(label, made)


def scrolled(label: str, made: Html) -> Html:
    """What may be wider or longer than its place, so that keys can scroll it too."""
    return tag("div", made, class_="scroll", role="region", aria_label=label, tabindex="0")


def _cell(cell: Cell) -> Html:
    value = None if cell.value is None else str(cell.value)
    return tag("td", cell.shown, data_value=value)
