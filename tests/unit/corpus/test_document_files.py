"""What lies in a folder of documents and is not read is said, counted and written down."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.corpus.documents import read_documents
from rayinfluence.corpus.files import Found, LeftOut, find_files
from rayinfluence.corpus.forms import Columns
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

ROW = json.dumps({"text": "w1 w2 w3 w4", "source": "s"}) + "\n"


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ROW)


def find(*patterns: str | Path) -> Found:
    return find_files([str(pattern) for pattern in patterns], lambda url: {})


def names(found: Found) -> list[str]:
    return [Path(file.url).name for file in found.files]


@pytest.mark.parametrize("name", ["A.JSONL", "b.JsonL", "c.NDJSON"])
def test_endings_count_in_any_case(tmp_path: Path, name: str) -> None:
    write(tmp_path / "data", name)
    [file] = find(tmp_path / "data").files
    assert [d.text for d in read_documents(file, Columns("text", "id"))] == ["w1 w2 w3 w4"]


def test_compressed_files_and_parquet_are_known_in_any_case(tmp_path: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.JSONL.GZ").write_bytes(gzip.compress(ROW.encode()))
    pq.write_table(pa.table({"text": ["w5"]}), tmp_path / "b.Parquet")
    read = [d.text for f in find(tmp_path).files for d in read_documents(f, Columns("text", "id"))]
    assert read == ["w1 w2 w3 w4", "w5"]


def test_what_is_left_out_of_a_folder_is_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "b.json", "README", "sub/c.txt", "sub/d.jsonl", "x.xml", "y", "z")
    write(tmp_path, ".DS_Store", ".git/objects/1.jsonl", ".git/2", "sub/_SUCCESS", "p.crc")
    os.mkfifo(tmp_path / "pipe.jsonl")
    found = find(tmp_path)
    assert names(found) == ["a.jsonl", "d.jsonl"]
    assert found.left_out == {
        "hidden or bookkeeping": LeftOut(4, [".DS_Store", ".git", "p.crc", "sub/_SUCCESS"]),
        "of other kinds": LeftOut(6, ["README", "b.json", "sub/c.txt", "x.xml", "y"]),
        "pipes, sockets or devices": LeftOut(1, ["pipe.jsonl"]),
    }
    assert found.line == (
        "4 hidden or bookkeeping (.DS_Store, .git, p.crc, sub/_SUCCESS), "
        "6 of other kinds (README, b.json, sub/c.txt, x.xml, y, ...), "
        "1 pipes, sockets or devices (pipe.jsonl)"
    )


def test_of_a_folder_of_documents_alone_nothing_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "sub/_b.jsonl")
    assert names(find(tmp_path)) == ["a.jsonl", "_b.jsonl"]
    assert find(tmp_path).left_out == {}


def test_what_another_pattern_names_is_not_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", ".b.jsonl")
    found = find(tmp_path, tmp_path / ".b.jsonl")
    assert names(found) == ["a.jsonl", ".b.jsonl"]
    assert found.left_out == {}


def test_in_object_storage_the_same_is_left_out(s3: dict[str, Any]) -> None:
    store = Store("s3://bucket/data", s3)
    keys = ("a.JSONL", "b.json", ".git/x/1.jsonl", ".git/2", "_SUCCESS", "sub_$folder$", "sub/c.md")
    for key in keys:
        store.write(key, ROW.encode())
    found = find_files(["s3://bucket/data"], lambda url: s3)
    assert [file.url for file in found.files] == ["s3://bucket/data/a.JSONL"]
    assert found.left_out == {
        "hidden or bookkeeping": LeftOut(3, [".git", "_SUCCESS", "sub_$folder$"]),
        "of other kinds": LeftOut(2, ["b.json", "sub/c.md"]),
    }
    store.delete("a.JSONL")
    with pytest.raises(CorpusError, match=r"s3://bucket/data names no file that can be read: "):
        find_files(["s3://bucket/data"], lambda url: s3)


def test_a_folder_in_which_nothing_can_be_read_is_refused_with_what_is_there(
    tmp_path: Path,
) -> None:
    write(tmp_path / "data", "a.json", "b.txt", ".DS_Store")
    with pytest.raises(
        CorpusError,
        match=r"^corpus\.documents: .*/data names no file that can be read: there are 1 hidden or "
        r"bookkeeping \(\.DS_Store\), 2 of other kinds \(a\.json, b\.txt\)\. .*\.jsonl",
    ):
        find(tmp_path / "data")


def test_a_glob_names_what_it_matches(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "_SUCCESS", "sub/b.jsonl")
    found = find(tmp_path / "*")
    assert names(found) == ["a.jsonl"]
    assert found.left_out == {
        "folders that a glob names": LeftOut(1, ["sub"]),
        "hidden or bookkeeping": LeftOut(1, ["_SUCCESS"]),
    }
    with pytest.raises(CorpusError, match=r"1 folders that a glob names \(sub\)"):
        find(tmp_path / "s*")
    write(tmp_path, "notes.md")
    for named in ("*", "notes.md"):
        with pytest.raises(CorpusError, match=r"notes\.md: documents are read from \.jsonl"):
            find(tmp_path / named)


@pytest.mark.parametrize(
    ("link", "pattern"),
    [
        ("gone.jsonl", ""),
        ("gone.jsonl", "*"),
        ("gone.jsonl", "**/*.jsonl"),
        ("gone.jsonl", "gone.jsonl"),
        # It may have been a folder of documents.
        ("books", ""),
        ("sub/books", ""),
        ("books", "*/*.jsonl"),
        ("books", "books/*.jsonl"),
        ("sub/books", "**/*.jsonl"),
        ("sub/books", "*/*/x.jsonl"),
    ],
)
def test_a_link_to_nothing_is_an_error_that_names_it(
    tmp_path: Path, link: str, pattern: str
) -> None:
    write(tmp_path / "data", "a.jsonl", "sub/a.jsonl", "sub/sub/x.jsonl")
    (tmp_path / "data" / link).symlink_to(tmp_path / "nothing")
    with pytest.raises(
        CorpusError,
        match=rf"^corpus\.documents: .*/data/{link} is a link to .*/nothing, where nothing is",
    ):
        find(tmp_path / "data" / pattern)


def test_a_link_to_nothing_amid_a_glob_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "a/b/x.jsonl", "c/d")
    (tmp_path / "c" / "b").symlink_to(tmp_path / "nothing")
    for pattern in ("*/b/*.jsonl", "*/b/x.jsonl", "c/b", "c/b/x.jsonl"):
        with pytest.raises(CorpusError, match=r"c/b is a link to .*/nothing"):
            find(tmp_path / pattern)


def test_hidden_links_to_nothing_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    (tmp_path / ".#a.jsonl").symlink_to("me@here.123")
    assert names(find(tmp_path)) == ["a.jsonl"]
    assert find(tmp_path).left_out == {"hidden or bookkeeping": LeftOut(1, [".#a.jsonl"])}


def test_what_is_left_out_is_printed_and_in_the_corpus_manifest(
    tmp_path: Path, change: Callable[..., RunConfig]
) -> None:
    config = tiny_run(tmp_path)
    write(tmp_path / "data", "a.jsonl", "b.json")
    config = change(config, corpus={"documents": [str(tmp_path / "data")]})

    def tokenized() -> str:
        said = io.StringIO()
        with Run(config, ProgressLog(Console(file=said, width=1000))) as run:
            run.tokenize()
        return said.getvalue()

    def written() -> Any:
        manifest = CorpusManifest.read(Store(config.run) / "corpus")
        assert manifest is not None
        return manifest.left_out

    assert "documents    1 files; left out: 1 of other kinds (b.json)" in tokenized()
    assert written() == {"of other kinds": LeftOut(1, ["b.json"])}
    (tmp_path / "data" / "c.jsonl").write_text(ROW * 2)
    write(tmp_path / "data", "d.txt")
    assert "documents    2 files; left out: 2 of other kinds (b.json, d.txt)" in tokenized()
    assert written() == {"of other kinds": LeftOut(2, ["b.json", "d.txt"])}


def test_a_file_of_another_kind_is_refused_before_the_model_is_loaded(
    tmp_path: Path, change: Callable[..., RunConfig]
) -> None:
    config = tiny_run(tmp_path)
    write(tmp_path, "data.txt")
    config = change(config, corpus={"documents": [str(tmp_path / "data.txt")]})
    with pytest.raises(CorpusError, match=r"data\.txt: documents are read from"):
        Inputs.of(config)


def test_documents_in_utf_16_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    Path(config.corpus.documents[0]).write_text(ROW, encoding="utf-16")
    with pytest.raises(CorpusError, match="is in UTF-16 or UTF-32"):
        Inputs.of(config)
