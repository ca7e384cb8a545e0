"""For files, pipes and logs: no colours, a row a line however long, columns by two spaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from rayinfluence.display.value import Cell, Part, Table, as_text


def plain_lines(parts: Sequence[Part]) -> Iterator[str]:
    """Parts as lines, one below the other."""
    for part in parts:
        if isinstance(part, Table):
            if part.title:
                yield as_text(part.title).plain
            yield from _rows(part)
        else:
            yield as_text(part).plain


def _rows(table: Table) -> Iterator[str]:
    rows = [[_in_one(cell) for cell in row] for row in table.rows]
    rows.insert(0, [_in_one(column.title) for column in table.columns])
    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            " " * (width - cell_len(cell)) + cell
            if column.number
            else cell + " " * (width - cell_len(cell))
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _in_one(cell: Cell) -> str:
    return " ".join(as_text(cell).plain.split())
