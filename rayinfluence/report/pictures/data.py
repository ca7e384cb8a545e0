"""What a picture is drawn from, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict

from rayinfluence.report.pictures.figure import Cell, Figure

#: What makes a text a formula where spreadsheets open a file.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def data_files(figure: Figure, about: Mapping[str, str]) -> dict[str, bytes]:
    """The table of a figure as CSV, and all of it as JSON, by their endings.

    Texts of the CSV that a spreadsheet would take for a formula begin with an apostrophe; in the
    JSON they are as they are.

    Args:
        figure: what was drawn.
        about: of which results it is, for the JSON.
    """
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(map(_safe, figure.heads))
    writer.writerows([[_safe(cell) for cell in row] for row in figure.rows])
    whole = json.dumps({**about, **asdict(figure)}, indent=1)
    return {"csv": _bytes(sink.getvalue()), "json": _bytes(whole + "\n")}


def _safe(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULAS) else cell


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
