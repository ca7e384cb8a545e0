"""Our formats of documents, and one that is not ours, do what every format has to do."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.corpus import sources
from rayinfluence.corpus.sources.jsonl import JsonLines
from rayinfluence.corpus.sources.source import Row, Source, without_text
from rayinfluence.testing.sources import SourceConformance

Rows = Sequence[Mapping[str, str]]
LINES, CSV, TSV, PARQUET = sources.SOURCES


class TestJsonLines(SourceConformance):
    source = LINES

    def written(self, rows: Rows) -> bytes:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    def with_a_bad_row(self) -> bytes:
        return b'{"text": "one"}\n{"text": "t\n{"text": "two"}\n'


class TestCsv(SourceConformance):
    source = CSV
    delimiter = ","

    def written(self, rows: Rows) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter=self.delimiter)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def with_a_bad_row(self) -> bytes:
        return b"text,more\none,1\nt\ntwo,2\n".replace(b",", self.delimiter.encode())


class TestTsv(TestCsv):
    source = TSV
    delimiter = "\t"


class TestParquet(SourceConformance):
    source = PARQUET

    def written(self, rows: Rows) -> bytes:
        return self._table({name: [row[name] for row in rows] for name in rows[0]})

    def with_a_bad_row(self) -> bytes:
        return self._table({"text": ["one", None, "two"]})

    def _table(self, columns: dict[str, list[str | None]]) -> bytes:
        body = io.BytesIO()
        pq.write_table(pa.table(columns), body, row_group_size=60)
        return body.getvalue()


class Sequenced:
    """Somebody else's: texts of JSON, each after a record separator (RFC 7464)."""

    endings = (".json-seq",)
    seeks = False

    def refusal(self, begins: bytes) -> str | None:
        return None if begins.startswith(b"\x1e") else "is no sequence of JSON texts."

    def rows(self, stream: BinaryIO, text_column: str) -> Iterator[Row]:
        there: set[str] = set()
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line.removeprefix(b"\x1e"))
            except ValueError as error:
                yield number, f"not JSON: {error}"
                continue
            there |= set(row)
            yield number, row
        if text_column not in there:
            raise without_text(f"has no key {text_column!r} anywhere; it has", sorted(there))


class TestAnother(SourceConformance):
    source = Sequenced()

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "SOURCES", [*sources.SOURCES, self.source])

    def written(self, rows: Rows) -> bytes:
        return b"".join(b"\x1e" + json.dumps(row).encode() + b"\n" for row in rows)

    def with_a_bad_row(self) -> bytes:
        return b'\x1e{"text": "one"}\n\x1e{"text": "t\n\x1e{"text": "two"}\n'


class Holds(JsonLines):
    """Reads the file to its end first."""

    def rows(self, stream: BinaryIO, text_column: str) -> Iterator[Row]:
        yield from list(super().rows(stream, text_column))


class Drops(JsonLines):
    """Says nothing of rows that are none."""

    def rows(self, stream: BinaryIO, text_column: str) -> Iterator[Row]:
        for number, row in super().rows(stream, text_column):
            if not isinstance(row, str):
                yield number, row


class Miscounts(JsonLines):
    """Counts from 0."""

    def rows(self, stream: BinaryIO, text_column: str) -> Iterator[Row]:
        for number, row in super().rows(stream, text_column):
            yield number - 1, row


class Strips(JsonLines):
    """Cleans up texts."""

    def rows(self, stream: BinaryIO, text_column: str) -> Iterator[Row]:
        for number, row in super().rows(stream, text_column):
            yield number, row if isinstance(row, str) else {k: v.strip() for k, v in row.items()}


class Trusts(JsonLines):
    """Lets errors of its library out."""

    def rows(self, stream: BinaryIO, text_column: str) -> Iterator[Row]:
        for number, line in enumerate(stream, start=1):
            row: dict[str, Any] = json.loads(line)
            yield number, row


class Silent(Trusts):
    """Gives what it understands, and ends there."""

    def rows(self, stream: BinaryIO, text_column: str) -> Iterator[Row]:
        try:
            yield from super().rows(stream, text_column)
        except (ValueError, OSError):
            return


@pytest.mark.parametrize(
    ("source", "test"),
    [
        (Holds(), "test_the_first_row_comes_before_the_file_is_read"),
        (Drops(), "test_a_bad_row_has_a_reason_and_ends_nothing"),
        (Miscounts(), "test_rows_come_in_order_with_their_numbers"),
        (Strips(), "test_rows_come_in_order_with_their_numbers"),
        (Trusts(), "test_garbled_files_give_bad_rows_or_are_refused"),
        (Trusts(), "test_a_bad_row_has_a_reason_and_ends_nothing"),
        (Trusts(), "test_a_file_without_texts_names_its_columns"),
        (Silent(), "test_cut_files_that_are_compressed_are_refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_format_that_is_none_is_found_out(
    source: Source, test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else all of a small file is read before a source sees any of it.
    monkeypatch.setattr("rayinfluence.corpus.sources.compression._BUFFER", 64)
    suite = TestJsonLines()
    getattr(suite, test)(tmp_path)
    monkeypatch.setattr(sources, "SOURCES", [source])
    monkeypatch.setattr(suite, "source", source)
    with pytest.raises((AssertionError, ValueError)):
        getattr(suite, test)(tmp_path)
