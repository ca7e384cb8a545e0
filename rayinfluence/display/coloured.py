"""For people at a terminal: colours, and tables that are as wide as it is."""

from __future__ import annotations

from collections.abc import Sequence

from rich import table as drawn
from rich.console import Console

from rayinfluence.display.value import Part, Table, as_text


def print_coloured(parts: Sequence[Part], console: Console) -> None:
    """Print parts, one below the other."""
    for part in parts:
        if isinstance(part, Table):
            if part.title:
                console.print(as_text(part.title), style="bold")
            console.print(_drawn(part))
        else:
            # What is no styled text may be copied, such as a path: the terminal breaks its lines.
            console.print(as_text(part), soft_wrap=isinstance(part, str))


def _drawn(table: Table) -> drawn.Table:
    any_wide = any(column.wide for column in table.columns)
    shown = drawn.Table(box=None, pad_edge=False, expand=any_wide, padding=(0, 1))
    for column in table.columns:
        shown.add_column(
            as_text(column.title),
            justify="right" if column.number else "left",
            no_wrap=column.number,
            overflow="fold",
            ratio=1 if column.wide else None,
        )
    for row in table.rows:
        shown.add_row(*map(as_text, row))
    return shown
