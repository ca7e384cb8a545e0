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
from rayinfluence.corpus.documents import BadDocument, read_documents
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
    write(tmp_path, "a.jsonl", "b.ipynb", "sub/c.txt", "sub/d.jsonl", "sub/state.json", "x.xml")
    for name in ("README", "y", "z"):
        (tmp_path / name).write_text("no rows\n")
    write(tmp_path, ".DS_Store", ".git/objects/1.jsonl", ".git/2", "sub/_SUCCESS", "p.crc")
    os.mkfifo(tmp_path / "pipe.jsonl")
    found = find(tmp_path)
    assert names(found) == ["a.jsonl", "d.jsonl"]
    assert found.left_out == {
        "hidden or bookkeeping": LeftOut(
            5, [".DS_Store", ".git", "p.crc", "sub/_SUCCESS", "sub/state.json"]
        ),
        "of other kinds": LeftOut(5, ["README", "b.ipynb", "x.xml", "y", "z"]),
        "pipes, sockets or devices": LeftOut(1, ["pipe.jsonl"]),
        "texts beside data": LeftOut(1, ["sub/c.txt"]),
    }
    assert found.line == (
        "5 hidden or bookkeeping (.DS_Store, .git, p.crc, sub/_SUCCESS, sub/state.json), "
        "5 of other kinds (README, b.ipynb, x.xml, y, z), "
        "1 pipes, sockets or devices (pipe.jsonl), 1 texts beside data (sub/c.txt)"
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
    keys = ("a.JSONL", "b.xml", ".git/x/1.jsonl", ".git/2", "_SUCCESS", "sub_$folder$", "sub/c.md")
    for key in keys:
        store.write(key, ROW.encode())
    found = find_files(["s3://bucket/data"], lambda url: s3)
    assert [file.url for file in found.files] == ["s3://bucket/data/a.JSONL"]
    assert found.left_out == {
        "hidden or bookkeeping": LeftOut(3, [".git", "_SUCCESS", "sub_$folder$"]),
        "of other kinds": LeftOut(1, ["b.xml"]),
        "texts beside data": LeftOut(1, ["sub/c.md"]),
    }
    store.delete("a.JSONL")
    store.delete("sub/c.md")
    with pytest.raises(CorpusError, match=r"s3://bucket/data names no file that can be read: "):
        find_files(["s3://bucket/data"], lambda url: s3)


def test_a_folder_in_which_nothing_can_be_read_is_refused_with_what_is_there(
    tmp_path: Path,
) -> None:
    write(tmp_path / "data", "a.xml", "b.tar", ".DS_Store")
    with pytest.raises(
        CorpusError,
        match=r"^corpus\.documents: .*/data names no file that can be read: there are 1 hidden or "
        r"bookkeeping \(\.DS_Store\), 2 of other kinds \(a\.xml, b\.tar\)\. .*\.jsonl",
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
    (tmp_path / "notes.log").write_text("no rows\n")
    for named in ("*", "notes.log"):
        with pytest.raises(CorpusError, match=r"notes\.log is of no format .* from \.jsonl"):
            find(tmp_path / named)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        # As a shell has it, though there is a file of this very name.
        ("a*.jsonl", ["a*.jsonl", "a1.jsonl", "a2.jsonl", "a[1].jsonl"]),
        ("a[1]?jsonl", ["a1.jsonl"]),
        ("a[1].jsonl", ["a[1].jsonl"]),
        ("a[[]1].jsonl", ["a[1].jsonl"]),
        ("a[12].jsonl", ["a1.jsonl", "a2.jsonl"]),
        ("a[!2].jsonl", ["a*.jsonl", "a1.jsonl"]),
        ("a[^2].jsonl", ["a*.jsonl", "a1.jsonl"]),
        ("a[*^].jsonl", ["a*.jsonl"]),
    ],
)
def test_a_glob_stands_for_what_it_does_in_a_shell(
    tmp_path: Path, pattern: str, found: list[str]
) -> None:
    write(tmp_path, "a*.jsonl", "a1.jsonl", "a2.jsonl", "a[1].jsonl")
    assert sorted(names(find(tmp_path / pattern))) == sorted(found)


@pytest.mark.parametrize("pattern", ["", "*.jsonl", "**/*.jsonl", "self.jsonl"])
def test_a_link_to_itself_is_an_error_that_names_it(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "data", "a.jsonl")
    (tmp_path / "data" / "self.jsonl").symlink_to("self.jsonl")
    with pytest.raises(CorpusError, match=r"/self\.jsonl is a link to self\.jsonl, where"):
        find(tmp_path / "data" / pattern)


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
    write(tmp_path / "data", "a.jsonl", "b.xml")
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

    assert "documents    1 files; left out: 1 of other kinds (b.xml)" in tokenized()
    assert written() == {"of other kinds": LeftOut(1, ["b.xml"])}
    (tmp_path / "data" / "c.jsonl").write_text(ROW * 2)
    write(tmp_path / "data", "d.tar")
    assert "documents    2 files; left out: 2 of other kinds (b.xml, d.tar)" in tokenized()
    assert written() == {"of other kinds": LeftOut(2, ["b.xml", "d.tar"])}


def test_a_file_of_another_kind_is_refused_before_the_model_is_loaded(
    tmp_path: Path, change: Callable[..., RunConfig]
) -> None:
    config = tiny_run(tmp_path)
    (tmp_path / "data.log").write_text("no rows\n")
    config = change(config, corpus={"documents": [str(tmp_path / "data.log")]})
    with pytest.raises(CorpusError, match=r"data\.log is of no format"):
        Inputs.of(config)


def test_documents_in_utf_16_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    Path(config.corpus.documents[0]).write_text(ROW, encoding="utf-16")
    with pytest.raises(CorpusError, match="is in UTF-16 or UTF-32"):
        Inputs.of(config)


def test_a_folder_of_texts_is_read_and_files_without_endings_are_looked_into(
    tmp_path: Path,
) -> None:
    import gzip

    for name in ("texts/a.txt", "texts/b.md", "texts/c/index.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    assert names(find(tmp_path / "texts")) == ["a.txt", "b.md", "index.html"]
    write(tmp_path / "parts", "part-00000", "part-00001")
    (tmp_path / "parts" / "part-00002.gz").write_bytes(gzip.compress(ROW.encode()))
    assert names(find(tmp_path / "parts")) == ["part-00000", "part-00001", "part-00002.gz"]


def test_what_datasets_save_to_a_disk_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(10)], "n": range(10)})
    both = datasets.DatasetDict({"train": made, "test": made.select(range(2))})
    both.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    found = find(tmp_path / "saved")
    read = [d for file in found.files for d in read_documents(file, Columns("text", "id"))]
    assert [d.text for d in read if not isinstance(d, BadDocument)] == [
        *("t0", "t1"),
        *(f"t{i}" for i in range(10)),
    ]
    assert found.line.startswith("5 hidden or bookkeeping (dataset_dict.json, ")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{a,b}.jsonl", ["a.jsonl", "b.jsonl"]),
        ("{b,sub/c}*", ["b.jsonl", "c.jsonl"]),
        ("part-{0..2}.jsonl", ["part-0.jsonl", "part-1.jsonl", "part-2.jsonl"]),
        ("[!ab].jsonl", []),
        ("[!a].jsonl", ["b.jsonl"]),
        ("**/{a,{b,c}}.jsonl", ["a.jsonl", "b.jsonl", "c.jsonl"]),
        ("x{y}.jsonl", ["x{y}.jsonl"]),
        ("p{q,r}.jsonl", ["p{q,r}.jsonl"]),
    ],
)
def test_globs_mean_what_a_shell_means(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    write(tmp_path, "a.jsonl", "b.jsonl", "sub/c.jsonl", "x{y}.jsonl", "p{q,r}.jsonl")
    write(tmp_path, *(f"part-{number}.jsonl" for number in range(4)))
    if not expected:
        with pytest.raises(CorpusError, match="names no file"):
            find(tmp_path / pattern)
        return
    assert names(find(tmp_path / pattern)) == expected


def test_each_alternative_has_to_name_files(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    with pytest.raises(CorpusError, match=r"/b\.jsonl names no file"):
        find(tmp_path / "{a,b}.jsonl")
    with pytest.raises(CorpusError, match="stand for more than 10,000 addresses"):
        find(tmp_path / "{1..10}{1..10}{1..10}{1..10}{1..10}.jsonl")
