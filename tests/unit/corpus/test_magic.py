"""Files that are not what their names say are told by what they are."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from rayinfluence.config import RunConfig
from rayinfluence.corpus.documents import read_documents
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.query_files import read_queries
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.errors import CorpusError, QueryError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

LINES = b'{"query_id": "a", "prompt": "w1", "completion": " w2", "text": "w1 w2"}\n' * 30


def table() -> pa.Table:
    return pa.Table.from_pylist([json.loads(line) for line in LINES.splitlines()])


def made(write: Callable[[io.BytesIO], Any]) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def compressed(codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(LINES)
    return sink.getvalue().to_pybytes()


def stream_of_arrow(sink: io.BytesIO) -> None:
    with pa.ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table())


def zipped(sink: io.BytesIO) -> None:
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("queries.jsonl", LINES)


def database() -> bytes:
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE queries (prompt TEXT)")
    return base.serialize()


PACKED = {
    "gzip": (gzip.compress(LINES), "gunzip"),
    "zstd": (compressed("zstd"), "zstd -d"),
    "bzip2": (bz2.compress(LINES), "bunzip2"),
    "xz": (lzma.compress(LINES), "unxz"),
    "zip": (made(zipped), "unzip"),
    "lz4": (compressed("lz4"), "lz4 -d"),
}
OTHERS = {
    "Parquet": made(lambda sink: pq.write_table(table(), sink)),
    "Arrow": made(lambda sink: pyarrow.feather.write_feather(table(), sink)),
    "ORC": made(lambda sink: pyarrow.orc.write_table(table(), sink)),
    "SQLite": database(),
}
BODIES = {name: body for name, (body, _) in PACKED.items()} | OTHERS


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["queries.jsonl", "queries.jsonl.gz"])
def test_queries_that_are_compressed_are_to_be_unpacked(
    tmp_path: Path, kind: str, name: str
) -> None:
    body, command = PACKED[kind]
    (tmp_path / name).write_bytes(body)
    with pytest.raises(QueryError, match=rf"is compressed \({kind}\).*unpack it \(`{command}`\)"):
        read_queries(Store(str(tmp_path / name)))


@pytest.mark.parametrize("kind", OTHERS)
def test_queries_of_another_format_are_to_be_written_as_lines(tmp_path: Path, kind: str) -> None:
    (tmp_path / "queries.jsonl").write_bytes(OTHERS[kind])
    with pytest.raises(
        QueryError, match=rf"is a file of {kind}, .* are read as JSON, CSV or YAML: wr"
    ):
        read_queries(Store(str(tmp_path / "queries.jsonl")))


def test_a_stream_of_arrow_is_one_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_bytes(made(stream_of_arrow))
    with pytest.raises(QueryError, match="is a file of Arrow"):
        read_queries(Store(str(tmp_path / "queries.jsonl")))


READ = {"gzip", "zstd", "bzip2", "xz", "Parquet", "Arrow", "lines"}
NAMES = [".jsonl", ".JSON.gz", ".csv", ".jsonl.zst", ".parquet", ".feather", ".txt", ".dat", ""]


@pytest.mark.parametrize("ending", NAMES)
@pytest.mark.parametrize("kind", [*BODIES, "lines"])
def test_documents_are_what_they_hold_whatever_their_names_say(
    tmp_path: Path, change: Callable[..., RunConfig], kind: str, ending: str
) -> None:
    path = tmp_path / f"other{ending}"
    path.write_bytes(BODIES.get(kind, LINES))
    config = change(tiny_run(tmp_path), corpus={"documents": [str(path)]})
    if kind in READ:
        assert Inputs.of(config).documents.files
        assert len(list(read_documents(Store(str(path)), Columns("text", "id")))) == 30
        return
    said = rf"other{ending} is a file of {kind}, whatever its name says: .*, and name that\.$"
    with pytest.raises(CorpusError, match=said):
        Inputs.of(config)
    # In object storage it is found when it is read.
    with pytest.raises(CorpusError, match=said):
        list(read_documents(Store(str(path)), Columns("text", "id")))


POINTERS = {
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 167\n",
    "git-xet": b"# xet version 0\nfilesize = 167\nhash = '4d7a'\n",
    "git-annex": b"/annex/objects/SHA256E-s167--4d7a.jsonl\n",
}


@pytest.mark.parametrize("tool", POINTERS)
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".jsonl.gz", ".csv.zst", ".parquet"])
def test_documents_that_are_pointers_are_told_with_what_fetches_them(
    tmp_path: Path, change: Callable[..., RunConfig], tool: str, ending: str
) -> None:
    path = tmp_path / f"other{ending}"
    path.write_bytes(POINTERS[tool])
    config = change(tiny_run(tmp_path), corpus={"documents": [str(path)]})
    said = rf"other{ending} is a pointer of {tool} and not the file itself; run `git .*again\.$"
    with pytest.raises(CorpusError, match=said):
        Inputs.of(config)
    with pytest.raises(CorpusError, match=said):
        list(read_documents(Store(str(path)), Columns("text", "id")))


@pytest.mark.parametrize("tool", POINTERS)
def test_queries_that_are_a_pointer_are_told_with_what_fetches_them(
    tmp_path: Path, tool: str
) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_bytes(POINTERS[tool])
    with pytest.raises(
        QueryError, match=rf"queries\.jsonl is a pointer of {tool} and not the file"
    ):
        read_queries(Store(str(path)))


def test_what_is_compressed_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.compress(LINES)))
    with pytest.raises(CorpusError, match=r"holds gzip within gzip, .*`gunzip`"):
        list(read_documents(Store(str(path)), Columns("text", "id")))


def test_a_table_that_is_compressed_as_a_whole_is_to_be_unpacked(tmp_path: Path) -> None:
    for kind in ("Parquet", "Arrow"):
        path = tmp_path / "documents.gz"
        path.write_bytes(gzip.compress(BODIES[kind]))
        with pytest.raises(CorpusError, match=r"is compressed \(gzip\) as a whole, .*`gunzip`"):
            list(read_documents(Store(str(path)), Columns("text", "id")))


def test_documents_in_object_storage_are_judged_when_they_are_read(s3: dict[str, Any]) -> None:
    store = Store("s3://bucket/data", s3)
    for name, kind in (("a.jsonl", "gzip"), ("b.jsonl.gz", "Parquet"), ("c.parquet", "lines")):
        store.write(name, BODIES.get(kind, LINES))
        assert len(list(read_documents(store / name, Columns("text", "id")))) == 30
    store.write("d.jsonl", BODIES["ORC"])
    with pytest.raises(CorpusError, match=r"d\.jsonl is a file of ORC, whatever its name says"):
        list(read_documents(store / "d.jsonl", Columns("text", "id")))


@pytest.mark.parametrize("ending", ["", ".csv", ".jsonl", ".jsonl.gz"])
def test_a_page_under_the_name_of_data_is_none(tmp_path: Path, ending: str) -> None:
    """Such as what a server says of a file that it does not have."""
    path = tmp_path / f"documents{ending}"
    path.write_bytes(b"<!DOCTYPE html><html><body>not found</body></html>\n")
    with contextlib.suppress(CorpusError):
        found = list(read_documents(Store(str(path)), Columns("text", "id")))
        is_page = [isinstance(one, Document) for one in found]
        assert is_page == [not ending]
