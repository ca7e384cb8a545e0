"""Files that are an attack, or hold what nobody can read: refused, or told row by row."""

from __future__ import annotations

import gzip
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from rayinfluence.corpus.documents import BadDocument, read_documents
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.sources import compression, find_source
from rayinfluence.corpus.sources.compression import zstd
from rayinfluence.corpus.sources.source import Wanted
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store

LINE = b'{"text": "one"}\n'


def read(path: Path) -> list[Document | BadDocument]:
    return list(read_documents(Store(str(path)), Columns("text", "id")))


def test_ten_megabytes_that_become_ten_gigabytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "BOMB_BYTES", 2**26)  # as it takes long otherwise
    path = tmp_path / "bomb.jsonl.gz"
    member = gzip.compress(b" " * 2**20 + b"\n")
    path.write_bytes(gzip.compress(LINE) + member * 10_000)
    assert path.stat().st_size > 10**7
    with pytest.raises(CorpusError, match="taken for an attack on memory and time"):
        read(path)


def test_what_only_compresses_well_is_read(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl.zst"
    row = json.dumps({"text": "all work and no play " * 5000}).encode() + b"\n"
    path.write_bytes(zstd.compress(row * 200))
    assert path.stat().st_size * 256 < 200 * len(row)
    assert len(read(path)) == 200


def test_windows_of_zstd_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl.zst"
    options = {
        zstd.CompressionParameter.window_log: 30,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    compressor = zstd.ZstdCompressor(options=options)
    body = compressor.compress(LINE * 1000) + compressor.flush()
    path.write_bytes(body)
    assert len(read(path)) == 1000


def table(column: pa.Array) -> pa.Table:
    return pa.table({"text": ["one", "two"], "odd": column})


ODD: dict[str, tuple[pa.Array, list[Any]]] = {
    "year 10000": (
        pa.array([0, 253402300800000], pa.timestamp("ms")),
        [datetime(1970, 1, 1), 253402300800000],
    ),
    "unknown zone": (pa.array([1, 2], pa.timestamp("ms", "Mars/Olympus")), [1, 2]),
    "date": (pa.array([0, 2**30], pa.date32()), [date(1970, 1, 1), 2**30]),
    "nested": (
        pa.array([{"t": 0}, {"t": 2**60}], pa.struct([("t", pa.timestamp("ms"))])),
        [{"t": datetime(1970, 1, 1)}, {"t": 2**60}],
    ),
    "list": (
        pa.array([[0], [2**60]], pa.list_(pa.timestamp("ms"))),
        [[datetime(1970, 1, 1)], [2**60]],
    ),
    "list of one length": (
        pa.array([[0], [2**60]], pa.list_(pa.timestamp("ms"), 1)),
        [[datetime(1970, 1, 1)], [2**60]],
    ),
    "map": (
        pa.array([[(1, 0)], [(2, 2**60)]], pa.map_(pa.int8(), pa.timestamp("ms"))),
        [[(1, datetime(1970, 1, 1))], [(2, 2**60)]],
    ),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_odd_values_of_other_columns_spoil_no_text(tmp_path: Path, odd: str, ending: str) -> None:
    path = tmp_path / f"docs{ending}"
    column, expected = ODD[odd]
    if ending == ".parquet":
        pq.write_table(table(column), path)
    else:
        pyarrow.feather.write_feather(table(column), str(path))
    found = read(path)
    assert [d.text for d in found if isinstance(d, Document)] == ["one", "two"]
    values = [d.metadata["odd"] for d in found if isinstance(d, Document)]
    assert values == expected


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
def test_columns_that_are_not_asked_for_are_not_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"docs{ending}"
    column = ODD["unknown zone"][0]
    if ending == ".parquet":
        pq.write_table(table(column), path)
    else:
        pyarrow.feather.write_feather(table(column), str(path))
    source = find_source(path.name)
    assert source
    with path.open("rb") as file:
        rows = list(source.rows(file, Wanted("text", frozenset({"text"}))))
    assert rows == [(1, {"text": "one"}), (2, {"text": "two"})]


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_bad_utf_8_in_a_table_spoils_its_row_alone(
    tmp_path: Path, ending: str, kind: pa.DataType
) -> None:
    path = tmp_path / f"docs{ending}"
    binary = pa.binary() if kind == pa.string() else pa.large_binary()
    texts = pa.array([b"one", b"caf\xe9", b"two"], binary).view(kind)
    if ending == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    else:
        pyarrow.feather.write_feather(pa.table({"text": texts}), str(path))
    first, bad, last = read(path)
    assert isinstance(first, Document)
    assert isinstance(last, Document)
    assert bad == BadDocument(f"{path}:2", "'text' is not UTF-8: it has the byte 0xe9")


@pytest.mark.parametrize("is_dictionary", [False, True])
def test_a_byte_that_was_altered_is_no_other_text_where_pages_have_checksums(
    tmp_path: Path, is_dictionary: bool
) -> None:
    path = tmp_path / "docs.parquet"
    options = {"use_dictionary": is_dictionary, "write_page_checksum": True, "compression": "NONE"}
    # The first and the last of them stand in statistics, too.
    pq.write_table(pa.table({"text": ["first", "other words", "second"]}), path, **options)
    assert len(read(path)) == 3
    path.write_bytes(path.read_bytes().replace(b"other", b"otter", 1))
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        read(path)


def test_encrypted_parquet_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    path.write_bytes(b"PARE\x15\x04" + bytes(30) + b"PARE")
    with pytest.raises(CorpusError, match="is encrypted, and no keys are known here"):
        read(path)


def test_a_column_of_bytes_is_no_column_of_strings(tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"text": pa.array([b"one", b"caf\xe9"], pa.binary())}), path)
    assert [one.reason for one in read(path) if isinstance(one, BadDocument)] == [
        "'text' is of bytes, and not a string",
        "'text' is not UTF-8: it has the byte 0xe9",
    ]


def written(path: Path, table: pa.Table) -> None:
    """A table as Parquet or as a file of Arrow, by its name."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("name", ["docs.arrow", "docs.parquet"])
def test_a_table_with_a_column_twice_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    parts = [pa.array([one]) for one in "abcd"]
    for twice, names in (("text", ["text", "text", "x", "y"]), ("y", ["text", "x", "y", "y"])):
        written(path, pa.table(parts, names))
        with pytest.raises(CorpusError, match=f"has two columns '{twice}'"):
            read(path)
    # What nobody asks for is no matter.
    columns = Columns("text", "id", metadata=("x",))
    assert list(read_documents(Store(str(path)), columns)) == [
        Document(f"{name}:1", "a", {"x": "b"}, 1)
    ]


@pytest.mark.parametrize("name", ["docs.arrow", "docs.parquet"])
@pytest.mark.parametrize("in_list", [False, True])
def test_a_column_with_a_field_twice_is_refused(tmp_path: Path, name: str, in_list: bool) -> None:
    path = tmp_path / name
    both = pa.StructArray.from_arrays([pa.array(["p"]), pa.array(["q"])], names=["k", "k"])
    column = pa.ListArray.from_arrays([0, 1], both) if in_list else both
    written(path, pa.table([pa.array(["a"]), column], ["text", "about"]))
    with pytest.raises(CorpusError, match="has two fields 'k' in its column 'about'"):
        read(path)
    columns = Columns("text", "id", metadata=())
    assert list(read_documents(Store(str(path)), columns)) == [Document(f"{name}:1", "a", {}, 1)]


def test_a_table_without_columns_is_said_to_have_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({}), tmp_path / "docs.parquet")
    with pytest.raises(CorpusError, match="has no column 'text'; it has none"):
        read(tmp_path / "docs.parquet")


def test_plain_text_is_a_document_to_its_last_character(tmp_path: Path) -> None:
    path = tmp_path / "docs.md"
    body = "# Title\r\n\r\nOne \u00e9\u2028\n\n\n"
    path.write_bytes(b"\xef\xbb\xbf" + body.encode())
    assert read(path) == [Document("docs.md:1", body, {}, 1)]
    path.write_bytes(b"caf\xe9")
    [bad] = read(path)
    assert bad == BadDocument(f"{path}:1", "not UTF-8: it has the byte 0xe9")
    path.write_bytes("one".encode("utf-16"))
    with pytest.raises(CorpusError, match="is no text in UTF-8"):
        read(path)


def test_layouts_of_those_who_make_corpora_are_read(tmp_path: Path) -> None:
    datatrove = {"text": "one", "id": "a", "metadata": {"url": "u", "date": "d"}}
    dolma = {"id": "b", "text": "two", "source": "s", "added": "2024", "metadata": {"n": 1}}
    for name, row in (("00000.jsonl.gz", datatrove), ("wiki-0000.json.gz", dolma)):
        (tmp_path / name).write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))
    assert read(tmp_path / "00000.jsonl.gz") == [
        Document("a", "one", {"metadata": {"url": "u", "date": "d"}}, 1)
    ]
    assert read(tmp_path / "wiki-0000.json.gz") == [
        Document("b", "two", {"source": "s", "added": "2024", "metadata": {"n": 1}}, 1)
    ]
