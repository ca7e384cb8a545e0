"""Documents as people have them: what is odd about a file, and no damage, or damage that is odd."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rayinfluence.corpus.documents import BadDocument, read_documents
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.forms import Columns, Document, named_by
from rayinfluence.corpus.paths import partitions
from rayinfluence.errors import BadFileError, CorpusError
from rayinfluence.storage.store import Store

COLUMNS = Columns("text", "id")


def read(path: Path, columns: Columns = COLUMNS) -> list[Document | BadDocument]:
    return list(read_documents(Store(str(path)), columns))


def written(path: Path, body: str) -> Path:
    path.write_text(body)
    return path


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        ("a b", "a b"),
        (7, "7"),
        (True, "true"),
        ({"b": [1], "a": "x"}, '{"a":"x","b":[1]}'),
        (b"abc", "abc"),
        (b"\xff\x00", '{"bytes":"ff00"}'),
        ("", None),
        (" \t", None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_a_name_is_something(identity: Any, name: str | None) -> None:
    assert named_by(identity) == name


def test_documents_whose_id_is_empty_are_called_by_their_places(tmp_path: Path) -> None:
    rows = [{"id": "", "text": "a"}, {"id": "", "text": "b"}, {"id": {"$oid": "x"}, "text": "c"}]
    found = read(written(tmp_path / "d.jsonl", "\n".join(map(json.dumps, rows))))
    ids = [one.document_id for one in found if isinstance(one, Document)]
    assert ids == ["d.jsonl:1", "d.jsonl:2", '{"$oid":"x"}']


def test_a_stream_of_arrow_that_is_cut_between_batches_is_not_whole(tmp_path: Path) -> None:
    body = io.BytesIO()
    table = pa.table({"text": [f"t{n}" for n in range(100)]})
    with pa.ipc.new_stream(body, table.schema) as writer:
        ends = []
        for batch in table.to_batches(10):
            writer.write_batch(batch)
            ends.append(body.tell())
    path = tmp_path / "d.arrow"
    path.write_bytes(body.getvalue())
    assert len(read(path)) == 100
    for end in (ends[-1], ends[4]):
        path.write_bytes(body.getvalue()[:end])
        with pytest.raises(BadFileError, match="the mark at the end of a stream is not there"):
            read(path)


def test_a_file_is_read_once_by_whatever_addresses_lead_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    for name in "ab":
        written(folder / f"{name}.jsonl", '{"text": "x"}\n')
    (folder / "c.jsonl").symlink_to(folder / "a.jsonl")
    found = find_files([str(folder), f"{folder}/sub/../b.jsonl"], lambda _: {})
    assert [Path(file.url).name for file in found.files] == ["a.jsonl", "b.jsonl"]
    assert found.line == (f"2 read by another address ({folder}/c.jsonl, {folder}/sub/../b.jsonl)")


def test_partitions_are_columns_wherever_they_stand_in_an_address() -> None:
    """Also above the folder that is named, since who names one partition means it."""
    assert partitions("/home/exp=3/data/lang=en/a.jsonl") == {"exp": 3, "lang": "en"}


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.tar.gz", "d.csv", "d.txt", "d"])
def test_an_archive_of_tar_is_to_be_unpacked(tmp_path: Path, name: str) -> None:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        member = tarfile.TarInfo("data/part-0.jsonl")
        member.size = 2000
        archive.addfile(member, io.BytesIO(b'{"text": "a"}\n\n' * 200))
    packed = name.endswith("gz") or name == "d.jsonl"
    (tmp_path / name).write_bytes(gzip.compress(body.getvalue()) if packed else body.getvalue())
    said = r"tar.*unpack it \(`tar -xf`\), and name what was in it, such as data/part-0\.jsonl\."
    with pytest.raises(CorpusError, match=said):
        read(tmp_path / name)


def test_an_export_of_chatgpt_says_what_it_is(tmp_path: Path) -> None:
    chat = {"title": "t", "create_time": 1.5, "mapping": {"a": {"id": "a"}}, "current_node": "a"}
    path = written(tmp_path / "conversations.json", json.dumps([chat, chat]))
    with pytest.raises(CorpusError, match=r"is an export of ChatGPT: .*`current_node`.*\"role\""):
        read(path)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_under_a_key_is_found(tmp_path: Path, indent: int | None) -> None:
    whole = {"version": "1.1", "data": [{"text": "a"}, {"text": "b"}]}
    path = written(tmp_path / "d.json", json.dumps(whole, indent=indent))
    said = r"""the list under 'data': write that list by itself \(`jq '\.\["data"\]'`\)"""
    with pytest.raises(CorpusError, match=said):
        read(path)
    written(path, json.dumps(whole) + "\n" + json.dumps(whole))
    with pytest.raises(CorpusError, match="has no key 'text' in any row; there are version, data"):
        read(path)


def test_columns_that_stand_twice_are_no_matter_where_nobody_asks(tmp_path: Path) -> None:
    path = written(tmp_path / "d.csv", "id,x,text,x\n1,a,t,\n2,,u,b\n")
    first, second = read(path)
    assert first == Document("1", "t", {"x": ["a", None]}, 1)
    assert second == Document("2", "u", {"x": [None, "b"]}, 2)
    asked = (
        Columns("x", "id"),
        Columns("text", "x"),
        Columns("text", "id", label="x"),
        Columns("text", "id", metadata=("x",)),
        Columns("text", "id", template="{{ x }}"),
    )
    for columns in asked:
        with pytest.raises(CorpusError, match="has two columns 'x' in its header"):
            read(path, columns)
    assert read(path, Columns("text", "id", metadata=()))[0] == Document("1", "t", {}, 1)
