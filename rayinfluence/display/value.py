"""What a command has to say, before it is decided how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from rayinfluence.text import visible, without_credentials

#: A string is anybody's, and is made visible; a `Text` has its styles, and who made it has done so.
Cell = str | Text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: over it.
        number: whether it is set to the right.
        wide: whether it takes the room that the others leave on a terminal.
    """

    title: str
    number: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        columns: one for each cell of a row.
        rows: in their order.
        title: a line over it; empty for none.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""


#: A line or lines, or a table.
Part = Cell | Table


@dataclass(frozen=True)
class Shown:
    """What a command has to say.

    Attributes:
        parts: for people, one below the other.
        values: the same for programs: what JSON has, by keys that the reference documents.
    """

    parts: Sequence[Part]
    values: Mapping[str, Any] = field(default_factory=dict)


def as_text(cell: Cell) -> Text:
    """A cell that can act on nothing: others' characters are shown, and credentials hidden."""
    return cell if isinstance(cell, Text) else Text(visible(without_credentials(cell)))
