"""CSV and TSV as RFC 4180 has them: a header, then records, numbered from 1 after it."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from rayinfluence.corpus.lines import other_encoding
from rayinfluence.corpus.sources.source import (
    RAW,
    NotDocumentsError,
    Refused,
    Row,
    Wanted,
    without_column,
)

#: Characters of a field; one that is longer has a quote that is closed nowhere.
LONGEST_FIELD = 2**26
#: csv has one limit for a whole process, which its own code may rely on.
_LIMIT = threading.Lock()

#: What spreadsheets put between columns.
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


@dataclass(frozen=True)
class Delimited:
    """Fields between delimiters, in UTF-8; one in quotes may hold delimiters and line breaks.

    Values are strings, since nothing says what else they would be; an empty one is none at all,
    but for an empty text.

    Attributes:
        endings: see :class:`rayinfluence.corpus.sources.source.Source`.
        delimiter: between two fields.
    """

    endings: tuple[str, ...]
    delimiter: str
    seeks = False
    is_text = False

    def holds(self, begins: bytes) -> bool:
        """Only its name says so."""
        return False

    def refusal(self, begins: bytes) -> str | None:
        """It is in another encoding."""
        if other_encoding(begins) is None:
            return None
        return (
            "does not begin as text in UTF-8 does: it is in UTF-16 or UTF-32, compressed or "
            "damaged. CSV and TSV are read as UTF-8: save it as UTF-8, or copy it again."
        )

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """The records, by the names of the header; empty lines are none."""
        lines = _Lines(self._lines(stream))
        records = self._records(lines)
        header = next(records, None)
        if header is None:
            return
        if isinstance(header, str):
            raise NotDocumentsError(f"has a header that cannot be read: it is {header}.")
        # Spreadsheets write columns that are empty without a name.
        named = set(header) - {""} if wanted.named is None else wanted.named
        if twice := [name for name in header if name in named and header.count(name) > 1]:
            raise NotDocumentsError(
                f"has two columns {twice[0]!r} in its header, and it cannot be told which of them "
                "is meant: rename one."
            )
        text_column = wanted.text
        if wanted.is_needed and text_column not in header:
            if spaced := next((name for name in header if name.strip() == text_column), None):
                raise NotDocumentsError(
                    f"has a space beside the name of a column, which is part of it: it is "
                    f"{spaced!r} in its header, and not {text_column!r}. Take the space out, or "
                    f"name it with the space under {wanted.key}."
                )
            if said := self._other_delimiter(header, text_column):
                raise NotDocumentsError(said)
            said = f"has no column {text_column!r}; its header has"
            raise without_column(said, header, wanted.key)
        for number, record in enumerate(records, start=1):
            row = record if isinstance(record, str) else _row(header, record, text_column)
            yield number, Refused.of(row, lines.taken()) if isinstance(row, str) else row

    def _other_delimiter(self, header: list[str], text_column: str | None) -> str | None:
        """Why a header lacks the text's column: its columns are apart by something else."""
        for other, name in _DELIMITERS.items():
            if text_column in [part.strip() for part in self.delimiter.join(header).split(other)]:
                return (
                    f"has its columns apart by {name}, and files of its name are read with "
                    f"{_DELIMITERS[self.delimiter]} between them: save it so"
                    + (", or call it .tsv." if other == "\t" else ".")
                )
        return None

    def _lines(self, stream: BinaryIO) -> Iterator[str]:
        """Lines with their ends as they are; bytes that are not UTF-8 stand out as surrogates."""
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        begun = False
        for line in text:
            if not begun and line.strip():
                begun = True
                if said := self.refusal(line.encode("utf-8", "surrogateescape")):
                    raise NotDocumentsError(said)
            yield line

    def _records(self, lines: _Lines) -> Iterator[list[str] | str]:
        """The fields of each record, the header's too, or why they cannot be told."""
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        number = 0
        while True:
            lines.begin()
            try:
                with _LIMIT:
                    before = csv.field_size_limit(LONGEST_FIELD)
                    try:
                        record: list[str] | str = next(reader)
                    finally:
                        csv.field_size_limit(before)
            except StopIteration:
                return
            except csv.Error as error:
                # All of its errors are of one class. After this one it goes on in the next line.
                if "expected after" not in str(error):
                    raise EOFError(
                        f"{f'row {number}' if number else 'its header'} has a quote that is not "
                        f"closed, or a field of more than {LONGEST_FIELD:,} characters"
                    ) from error
                record = f"not RFC 4180: {error}"
            if record:
                yield _in_utf_8(record)
                number += 1


class _Lines:
    """Lines, with those of the record that is being read, or its beginning."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._taken = ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if len(self._taken) < RAW:
            self._taken += line[:RAW]
        return line

    def begin(self) -> None:
        """A record begins with the next line."""
        self._taken = ""

    def taken(self) -> bytes:
        """The lines of a record, as they are in the file."""
        return self._taken.encode("utf-8", "surrogateescape")


def _in_utf_8(record: list[str] | str) -> list[str] | str:
    try:
        "".join(record).encode()
    except UnicodeEncodeError as error:
        byte = ord(error.object[error.start]) & 0xFF
        return f"not UTF-8: it has the byte 0x{byte:02x}"
    return record


def _row(header: list[str], record: list[str], text_column: str | None) -> dict[str, Any] | str:
    if len(record) != len(header):
        return f"{len(record)} fields, and the header has {len(header)}"
    # Only a text can be empty: an empty name is no name, and an empty value says nothing.
    values = list(zip(header, record, strict=True))
    if (nameless := header.count("")) > 1:
        if any(value and not name for name, value in values):
            return f"a value in a column without a name, of which there are {nameless}"
        values = [(name, value) for name, value in values if name]
    row: dict[str, Any] = {}
    several = len(set(header)) < len(header)
    for name, value in values:
        said = value if value or name == text_column else None
        if several and header.count(name) > 1:
            # It cannot be told which is meant, and nobody asked: all that it says is kept.
            row.setdefault(name, []).append(said)
        else:
            row[name] = said
    return row
