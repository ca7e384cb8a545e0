"""Our formats of documents, and one that is not ours, do what every format has to do."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, groupby
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from rayinfluence.corpus import sources
from rayinfluence.corpus.documents import refuse_other_content
from rayinfluence.corpus.forms import Columns
from rayinfluence.corpus.sources.jsonl import JsonLines
from rayinfluence.corpus.sources.source import (
    NotDocumentsError,
    Row,
    Source,
    Wanted,
    without_column,
)
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store
from rayinfluence.testing.sources import SourceConformance

Rows = Sequence[Mapping[str, str]]


def _of(ending: str) -> Source:
    found = sources.find_source(f"a{ending}")
    assert found
    return found


LINES, CSV, TSV, PARQUET, ARROW, PLAIN = map(
    _of, (".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
)


class TestJsonLines(SourceConformance):
    source = LINES

    def written(self, rows: Rows) -> bytes:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    def with_a_bad_row(self) -> bytes:
        return b'{"text": "one"}\n{"text": "t\n{"text": "two"}\n'

    def without_strings(self) -> bytes | None:
        return b'{"text": 7}\n{"text": null}\n{"text": ["one"]}\n{"id": "i"}\n'


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

    def without_strings(self) -> bytes | None:
        return None


class TestTsv(TestCsv):
    source = TSV
    delimiter = "\t"


class TestParquet(SourceConformance):
    source = PARQUET

    def written(self, rows: Rows) -> bytes:
        return self._table({name: [row[name] for row in rows] for name in rows[0]})

    def with_a_bad_row(self) -> bytes:
        offsets = pa.array([0, 3, 5, 8], pa.int32()).buffers()[1]
        data = pa.py_buffer(b"one\xff\xfftwo")
        return self._table({"text": pa.StringArray.from_buffers(3, offsets, data)})

    def without_strings(self) -> bytes | None:
        return self._table({"text": [7, None, 8]})

    def _table(self, columns: dict[str, Any]) -> bytes:
        body = io.BytesIO()
        pq.write_table(pa.table(columns), body, row_group_size=60)
        return body.getvalue()


class TestArrowFile(TestParquet):
    source = ARROW

    def _table(self, columns: dict[str, Any]) -> bytes:
        body = io.BytesIO()
        with pa.ipc.new_file(body, pa.table(columns).schema) as writer:
            writer.write_table(pa.table(columns), max_chunksize=60)
        return body.getvalue()


class TestArrowStream(TestParquet):
    source = ARROW

    def _table(self, columns: dict[str, Any]) -> bytes:
        body = io.BytesIO()
        with pa.ipc.new_stream(body, pa.table(columns).schema) as writer:
            writer.write_table(pa.table(columns), max_chunksize=60)
        return body.getvalue()


class TestFeather(TestParquet):
    source = ARROW

    def _table(self, columns: dict[str, Any]) -> bytes:
        body = io.BytesIO()
        pyarrow.feather.write_feather(pa.table(columns), body, chunksize=60)
        return body.getvalue()


class TestJsonList(TestJsonLines):
    def written(self, rows: Rows) -> bytes:
        return json.dumps(list(rows), ensure_ascii=False).encode()

    def with_a_bad_row(self) -> bytes:
        return b'[{"text": "one"}, {"text": 1 2}, {"text": "two"}]'

    def without_strings(self) -> bytes | None:
        return b'[{"text": 7},\n{"text": null}, {"text": ["one"]}, {"id": "i"}]\n'


class TestJsonOverLines(TestJsonLines):
    def written(self, rows: Rows) -> bytes:
        return "\n".join(json.dumps(row, ensure_ascii=False, indent=2) for row in rows).encode()

    def with_a_bad_row(self) -> bytes:
        return b'{\n"text": "one"}\n{\n"text": 1 2\n}{"text": "two"}\n'

    def without_strings(self) -> bytes | None:
        return b'{\n"text": 7}\n{"text": null}'


class TestBlocksOfPlainText(SourceConformance):
    source = PLAIN
    texts = ("one", 'a "b", c;\td', "x\ny", " \u00e9\u2028\U0001f600 ", "\\n'", '"')
    has_columns = False
    columns = Columns("text", "id", blocks=True)

    def written(self, rows: Rows) -> bytes:
        return "\n\n".join(row["text"] for row in rows).encode()

    def with_a_bad_row(self) -> bytes:
        return b"one\n\n\xff\n\ntwo\n"

    def without_strings(self) -> bytes | None:
        return None


class OfAnother(SourceConformance):
    """Tests of a format that is not in the tree: its line in the registry is the only one."""

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "SOURCES", [*sources.SOURCES, self.source])


class Sequenced:
    """Somebody else's: texts of JSON, each after a record separator (RFC 7464)."""

    endings = (".json-seq",)
    seeks = False
    is_text = False

    def holds(self, begins: bytes) -> bool:
        return False

    def refusal(self, begins: bytes) -> str | None:
        return None if begins.startswith(b"\x1e") else "is no sequence of JSON texts."

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        there: set[str] = set()
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line.removeprefix(b"\x1e"))
            except ValueError as error:
                yield number, f"not JSON: {error}"
                continue
            there |= set(row)
            yield number, row
        if wanted.text not in there:
            raise without_column(
                f"has no key {wanted.text!r} anywhere; it has", sorted(there), wanted.key
            )


class TestSequenced(OfAnother):
    source = Sequenced()

    def written(self, rows: Rows) -> bytes:
        return b"".join(b"\x1e" + json.dumps(row).encode() + b"\n" for row in rows)

    def with_a_bad_row(self) -> bytes:
        return b'\x1e{"text": "one"}\n\x1e{"text": "t\n\x1e{"text": "two"}\n'

    def without_strings(self) -> bytes | None:
        return b'\x1e{"text": 7}\n\x1e{"text": null}\n'


class Blocks:
    """Somebody else's: texts in blocks, with an empty line between two; they have no names."""

    endings = (".blocks",)
    seeks = False
    is_text = False

    def holds(self, begins: bytes) -> bool:
        return False

    def refusal(self, begins: bytes) -> str | None:
        return None

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        blocks = groupby(stream, key=lambda line: line != b"\n")
        for number, (_, lines) in enumerate((b for b in blocks if b[0]), start=1):
            try:
                yield number, {wanted.text: b"".join(lines).decode().removesuffix("\n")}
            except UnicodeDecodeError as error:
                yield number, f"not UTF-8: {error.reason}"


class TestBlocks(OfAnother):
    source = Blocks()
    texts = ("one", 'a "b", c;\td', "x\ny", " \u00e9\u2028\U0001f600 ", "\\n'", '"')
    has_columns = False

    def written(self, rows: Rows) -> bytes:
        return "\n\n".join(row["text"] for row in rows).encode()

    def with_a_bad_row(self) -> bytes:
        return b"one\n\n\xff\n\ntwo\n"

    def without_strings(self) -> bytes | None:
        return None


class Records:
    """Somebody else's: records of JSON after their lengths, in files that begin as Avro's do."""

    endings = (".avro",)
    seeks = False
    is_text = False

    def holds(self, begins: bytes) -> bool:
        return begins.startswith(b"Obj\1")

    def refusal(self, begins: bytes) -> str | None:
        return None if self.holds(begins) else "is no file of records."

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        if said := self.refusal(stream.read(4)):
            raise NotDocumentsError(said)
        there: set[str] = set()
        for number in count(1):
            size = stream.read(4)
            if not size:
                break
            n_bytes = int.from_bytes(size, "little")
            record = stream.read(min(n_bytes, 2**20))
            if len(record) < n_bytes:
                raise EOFError(f"record {number} is cut short")
            try:
                row = json.loads(record)
            except ValueError as error:
                yield number, f"not JSON: {error}"
                continue
            there |= set(row)
            yield number, row
        if wanted.text not in there:
            raise without_column(f"has no field {wanted.text!r}; it has", sorted(there), wanted.key)


class TestRecords(OfAnother):
    source = Records()

    def written(self, rows: Rows) -> bytes:
        return self._of([json.dumps(row).encode() for row in rows])

    def with_a_bad_row(self) -> bytes:
        return self._of([b'{"text": "one"}', b'{"text', b'{"text": "two"}'])

    def without_strings(self) -> bytes | None:
        return self._of([b'{"text": 7}', b'{"text": null}'])

    def _of(self, records: list[bytes]) -> bytes:
        return b"Obj\1" + b"".join(len(one).to_bytes(4, "little") + one for one in records)


class Holds(JsonLines):
    """Reads the file to its end first."""

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        yield from list(super().rows(stream, wanted))


class Drops(JsonLines):
    """Says nothing of rows that are none."""

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        for number, row in super().rows(stream, wanted):
            if not isinstance(row, str):
                yield number, row


class Miscounts(JsonLines):
    """Counts from 0."""

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        for number, row in super().rows(stream, wanted):
            yield number - 1, row


class Strips(JsonLines):
    """Cleans up texts."""

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        for number, row in super().rows(stream, wanted):
            yield number, row if isinstance(row, str) else {k: v.strip() for k, v in row.items()}


class Trusts(JsonLines):
    """Lets errors of its library out."""

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        for number, line in enumerate(stream, start=1):
            row: dict[str, Any] = json.loads(line)
            yield number, row


class Silent(Trusts):
    """Gives what it understands, and ends there."""

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        try:
            yield from super().rows(stream, wanted)
        except (ValueError, OSError):
            return


class Means(JsonLines):
    """Makes texts of what is none."""

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        for number, row in super().rows(stream, wanted):
            if isinstance(row, dict) and wanted.text in row:
                row[wanted.text] = str(row[wanted.text])
            yield number, row


class Claims(JsonLines):
    """Says that only some of its files are its own."""

    def holds(self, begins: bytes) -> bool:
        return len(begins) > 1000


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
        (Means(), "test_a_text_is_a_string_or_none"),
        (Claims(), "test_its_files_are_known_by_their_first_bytes"),
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


@pytest.mark.parametrize("endings", [("jsonl",), (".JSONL",)])
def test_an_ending_that_is_none_is_found_out(
    endings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = TestJsonLines()
    suite.test_the_registry_knows_it()
    source = JsonLines()
    monkeypatch.setattr(source, "endings", endings)
    monkeypatch.setattr(sources, "SOURCES", [source])
    monkeypatch.setattr(suite, "source", source)
    with pytest.raises(AssertionError):
        suite.test_the_registry_knows_it()


def test_what_a_format_claims_is_its_own_under_other_names(tmp_path: Path) -> None:
    """And where there is none, the file is to be lines."""
    body = TestRecords().with_a_bad_row()
    (tmp_path / "a.csv").write_bytes(body)
    (tmp_path / "a.parquet").write_bytes(body)
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(CorpusError, match=r"is a file of Avro, .* write it as JSON lines"):
            refuse_other_content(Store(str(tmp_path / name)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "SOURCES", [*sources.SOURCES, TestRecords.source])
            refuse_other_content(Store(str(tmp_path / name)))
