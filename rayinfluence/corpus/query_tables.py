"""Queries in CSV or TSV: a header that names our keys, and a query a row."""

from __future__ import annotations

import csv
import io
import json
from codecs import BOM_UTF8
from typing import Any

from rayinfluence.corpus.query_lines import Rows
from rayinfluence.corpus.sources.delimited import Delimited
from rayinfluence.corpus.sources.source import NotDocumentsError, Wanted
from rayinfluence.errors import QueryError, brief

_WANTED = Wanted("prompt", is_needed=False)
#: What may be between two columns.
_DELIMITERS = (",", "\t", ";", "|")
#: One of these names is in the header of each table of queries.
_ASKING = {"prompt", "completion", "completions", "messages", "conversations"}
#: What is no text stands as JSON in its cell.
_IN_JSON = {"completions", "messages", "conversations", "set", "spans", "metadata"}


def delimiter_of(body: bytes) -> str | None:
    """What is between the columns of a table of queries; None where it is no such table."""
    lines = body.removeprefix(BOM_UTF8).lstrip(b"\r\n").splitlines()
    header = lines[0].decode(errors="replace") if lines else ""
    for delimiter in _DELIMITERS:
        if not _ASKING.isdisjoint(map(_name, _cells(header, delimiter))):
            return delimiter
    return None


def table_rows(body: bytes, url: str, delimiter: str) -> Rows:
    """The queries of a table, each with its place; what is in no column of ours is its author's.

    An empty cell is none at all, but for an empty prompt.

    Raises:
        QueryError: a row has more or fewer fields than the header, or a cell is not JSON that has
            to be.
    """
    read = Delimited((), delimiter).rows(io.BytesIO(body), _WANTED)
    try:
        for number, record in read:
            place = f"{url}, row {number} below the header"
            if isinstance(record, str):
                raise QueryError(f"{place}: it has {record}.")
            yield place, _row(record, place)
    except NotDocumentsError as error:
        raise QueryError(f"{url} {error}") from error
    except EOFError as error:
        raise QueryError(f"{url}: {error}. Close the quote, or double those in a text.") from error


def no_table(url: str, body: bytes) -> str:
    """Why a file that is called a table is none of queries."""
    header = body.removeprefix(BOM_UTF8).decode(errors="replace").strip().partition("\n")[0]
    return (
        f"{url}: its first line names none of the columns prompt, completion and messages: it is "
        f"{header[:80]!r}. Give it a header with the columns prompt and completion."
    )


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _name(cell: str) -> str:
    """The name of a column: spreadsheets begin words with capitals."""
    return name if (name := cell.strip().lower()) in _ASKING else cell.strip()


def _row(record: dict[str, Any], place: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for cell, value in record.items():
        name = _name(cell)
        if name in row:
            raise QueryError(f"{place}: two columns are called {name}; rename one.")
        if name == "prompt":
            row[name] = value or ""
        elif value is not None:
            row[name] = _in_json(name, value, place) if name in _IN_JSON else value
    return row


def _in_json(name: str, value: str, place: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise QueryError(
            f"{place}: {name} is not JSON, which its cell has to be: {brief(error)}."
        ) from error
