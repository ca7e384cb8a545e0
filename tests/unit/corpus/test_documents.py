import bz2
import errno
import gzip
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.corpus.documents import BadDocument, file_digest, read_documents
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage.store import Store

ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "one", "source": "books", "year": 1999, "none": None},
    {"id": 7, "text": "two \u2028 lines", "nested": {"x": [1]}},
    {"text": "no id"},
    {"id": "d", "text": ""},
]
DOCUMENTS = [
    Document("a", "one", {"source": "books", "year": 1999}, 1),
    Document("7", "two \u2028 lines", {"nested": {"x": [1]}}, 2),
    Document("{name}:3", "no id", {}, 3),
    Document("d", "", {}, 4),
]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(body: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(body)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "jsonl": bytes,
    "ndjson": bytes,
    "jsonl.gz": gzip.compress,
    "jsonl.bz2": bz2.compress,
    "jsonl.zst": zstd,
}


def read(path: Path, text: str = "text", identity: str = "id") -> list[Document | BadDocument]:
    return list(read_documents(Store(str(path)), Columns(text, identity)))


def nothing(url: str) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("ending", COMPRESS)
def test_jsonl_plain_and_compressed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"docs.{ending}"
    path.write_bytes(COMPRESS[ending](JSONL))
    expected = [replace(d, document_id=d.document_id.format(name=path.name)) for d in DOCUMENTS]
    assert read(path) == expected


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.bz2", "jsonl.zst"])
def test_files_of_several_compressed_members_are_read_to_their_end(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"docs.{ending}"
    path.write_bytes(COMPRESS[ending](JSONL) * 3)
    assert len(read(path)) == 12


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    table = pa.table(
        {
            "id": ["a", "b", None],
            "text": pa.array(["one", None, "three"], pa.large_string()),
            "year": [1999, 2000, None],
        }
    )
    pq.write_table(table, path)
    assert read(path) == [
        Document("a", "one", {"year": 1999}, 1),
        Document("b", "", {"year": 2000}, 2),
        Document("docs.parquet:3", "three", {}, 3),
    ]


def test_columns_of_other_names(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text('{"body": "one", "key": "k", "text": "other"}\n')
    assert read(path, "body", "key") == [Document("k", "one", {"text": "other"}, 1)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "not JSON"),
        (b'{"text": "cut', "not JSON"),
        (b'{"text": "caf\xe9"}', "not UTF-8: it has the byte 0xe9, .* save the file as UTF-8"),
        (b'{"text": "half \\ud800 of a pair"}', r"no text: it has \\ud800, which is half a char"),
        (b'{"text": "a", "b": [{"\\uDEAD": 1}]}', r"no text: it has \\udead"),
        (b'{"text": "a", "b": [1, ["x\\udfff"]]}', r"no text: it has \\udfff"),
        (b'{"text": "x", "source": "\\udfff"}', r"no text: it has \\udfff"),
        (b"[" * 100_000, "not to be read: it is nested too deeply"),
        (
            b'{"text": "x", "n": ' + b"1" * 5000 + b"}",
            "not to be read: it has a whole number of more",
        ),
        (b'{"text": "x", "text": "y"}', "not to be told: the key 'text' stands twice"),
        (b"[1, 2]", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b'{"body": "x"}', "'text' is not a string"),
        (b'{"text": 3}', "'text' is not a string"),
        (b'{"text": [{"role": "user"}]}', "'text' has a message 0 without content"),
        (b'{"text": [1]}', "'text' has a message 0 that is no object"),
    ],
    ids=range(16),
)
def test_a_bad_row_is_told_with_its_place_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n')
    first, bad, last = read(path)
    assert isinstance(bad, BadDocument)
    assert bad.place == f"{path}:3"
    assert re.match(reason, bad.reason)
    assert [first, last] == [
        Document("docs.jsonl:1", "one", {}, 1),
        Document("docs.jsonl:4", "two", {}, 4),
    ]


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.json", "docs.txt", "docs"])
@pytest.mark.parametrize(
    "body",
    [
        '[{"text": "a"}, {"text": "b"}]',
        '\n[\n {"text": "a"},\n {"text": "b", "n": [1, {"x": "]},"}]}\n]\n',
        '\ufeff[\n {"text": "a"},{"text": "b"}\n]\n',
        '{\n "text": "a"\n}\n{\n "text": "b"\n}',
        '{"id": null,\n "text": "a"\n}{ "text": "b"}',
        '{"text": "a"}\n\n{"text": "b"}',
    ],
    ids=["list", "list over lines", "mark before it", "objects over lines", "adjoining", "lines"],
)
def test_json_is_lines_a_list_or_objects(tmp_path: Path, body: str, name: str) -> None:
    (tmp_path / name).write_text(body)
    assert [d.text for d in read(tmp_path / name) if isinstance(d, Document)] == ["a", "b"]


def test_one_object_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text(json.dumps({"text": "one\n", "more": {"a": [1]}}, indent=1))
    assert read(path) == [Document("docs.json:1", "one\n", {"more": {"a": [1]}}, 1)]


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_a_list_is_the_same_however_it_is_read(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayinfluence.corpus.sources.values._CHUNK", step)
    texts = ['a "b" \\ c', "\\\\", '\\"', "[{,]}", "\u00e9\U0001f600", ""]
    path = tmp_path / "docs.json"
    path.write_text(json.dumps([{"text": text} for text in texts], ensure_ascii=False))
    assert [d.text for d in read(path) if isinstance(d, Document)] == texts


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('[{"text": "a"}, {"text": "b"}', "ends within a list or an object"),
        ('[{"text": "a"}, {"text": "b', "ends within a list or an object"),
        ('[{"text": "a"}] {"text": "b"}', "something after the end of its list"),
    ],
)
def test_a_list_that_is_cut_short_is_an_error(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "docs.json").write_text(body)
    with pytest.raises(CorpusError, match=rf"cannot be read to its end \(.*{said}"):
        read(tmp_path / "docs.json")


def test_what_is_none_in_a_list_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_bytes(b'[{"text": "a"}, 3, {"text" "x"}, "]", {"text": "caf\xe9"}, , {"text": "b"}]')
    first, *bad, last = read(path)
    assert [first, last] == [
        Document("docs.json:1", "a", {}, 1),
        Document("docs.json:7", "b", {}, 7),
    ]
    reasons = [one.reason.partition(":")[0] for one in bad if isinstance(one, BadDocument)]
    objects = ["not a JSON object", "not JSON", "not a JSON object", "not UTF-8", "not JSON"]
    assert reasons == objects


def test_an_empty_file_has_no_documents(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv", "c.parquet", "d.json.gz", "e.txt", "f.arrow", "g"):
        (tmp_path / name).write_bytes(b"")
        assert read(tmp_path / name) == []
    (tmp_path / "h.json").write_bytes(b"[]")
    assert read(tmp_path / "h.json") == []


def test_whole_surrogate_pairs_and_other_escapes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "\\ud83d\\ude00 \\u00e9"}\r\n')
    assert read(path) == [Document("docs.jsonl:1", "😀 é", {}, 1)]


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.bz2", "jsonl.zst", "parquet"])
def test_a_file_that_is_cut_short_or_garbled_is_an_error(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"docs.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"text": [f"text {i}" for i in range(5000)]}), path)
        whole = path.read_bytes()
    else:
        whole = COMPRESS[ending](b"".join(b'{"text": "%d"}\n' % i for i in range(5000)))
    for body in (whole[:-5], whole[: len(whole) // 2], b"garbled" * 100):
        path.write_bytes(body)
        with pytest.raises(CorpusError, match=rf"docs\.{ending} cannot be read to its end"):
            read(path)


def test_garbled_pages_of_parquet_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"text": [f"text {i}" * 20 for i in range(5000)]}), path)
    body = path.read_bytes()
    path.write_bytes(body[:100] + bytes(byte ^ 0xFF for byte in body[100:500]) + body[500:])
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        read(path)


def test_a_parquet_file_without_the_column_names_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"body": ["x"], "id": ["y"]}), path)
    with pytest.raises(CorpusError, match=r"no column 'text'; it has body, id\. Name yours"):
        read(path)


def test_jsonl_in_which_no_line_has_the_key_names_the_keys_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text('{"body": "x", "id": "y"}\n3\n{"content": "x"}\n')
    with pytest.raises(
        CorpusError, match=r"no key 'text' in any row; there are body, id, content\. Name yours"
    ):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_jsonl_in_another_encoding_is_refused_and_not_guessed_at(
    tmp_path: Path, encoding: str, ending: str
) -> None:
    path = tmp_path / f"docs.{ending}"
    path.write_bytes(COMPRESS[ending]('\n{"text": "中文 w1"}\n{"text": "w2"}\n'.encode(encoding)))
    with pytest.raises(CorpusError, match=r"docs\.jsonl.* UTF-16 or UTF-32.*save it as UTF-8"):
        read(path)


def test_only_the_first_line_may_begin_with_a_mark_of_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\xef\xbb\xbf{"text": "two"}\n')
    first, bad = read(path)
    assert first == Document("docs.jsonl:1", "one", {}, 1)
    assert isinstance(bad, BadDocument)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "docs.log").write_text("text\nx\n")
    with pytest.raises(CorpusError, match=r"docs\.log is of no format .* from \.jsonl.*\.tsv"):
        read(tmp_path / "docs.log")


def names(*patterns: str) -> list[str]:
    return [Path(file.url).name for file in find_files(list(patterns), nothing).files]


def test_files_folders_and_globs_are_found_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "sub/c.parquet", "sub/notes.md", "x[1].jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jsonl").mkdir()
    everything = ["a.jsonl.gz", "b.jsonl", "c.parquet", "x[1].jsonl"]
    assert names(str(tmp_path)) == everything
    assert names(f"{tmp_path}/*.jsonl") == ["b.jsonl", "x[1].jsonl"]
    assert names(f"{tmp_path}/**/*.parquet") == ["c.parquet"]
    assert names(f"{tmp_path}/x[1].jsonl") == ["x[1].jsonl"]
    assert names(f"file://{tmp_path}/b.jsonl") == ["b.jsonl"]
    assert names(f"{tmp_path}/x[1].jsonl", str(tmp_path), f"{tmp_path}/b.*") == [
        "x[1].jsonl", "a.jsonl.gz", "b.jsonl", "c.parquet"
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", ["missing.jsonl", "missing/*.jsonl", "empty"])
def test_a_pattern_that_names_nothing_is_an_error(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CorpusError, match=r"names no file; give one, a folder .*\.jsonl.*\.parquet"
    ):
        names(str(tmp_path / pattern))
    with pytest.raises(CorpusError, match=r"s3:// names no file"):
        names("s3://")


@pytest.mark.parametrize("pattern", ["nonsense://a/b.jsonl", "http://127.0.0.1:9/x.jsonl"])
def test_an_address_that_cannot_be_listed_is_a_sentence(pattern: str) -> None:
    with pytest.raises(
        StorageError, match=r"^corpus\.documents: .*(Check the address|use a local)"
    ):
        names(pattern)


def test_documents_in_object_storage(s3: dict[str, Any]) -> None:
    store = Store("s3://bucket/data", s3)
    store.write("b.jsonl", JSONL)
    store.write("sub/a.jsonl.gz", gzip.compress(JSONL))
    store.write("notes.md", b"")
    for pattern, expected in (
        ("s3://bucket/data", ["s3://bucket/data/b.jsonl", "s3://bucket/data/sub/a.jsonl.gz"]),
        ("s3://bucket/data/*.jsonl", ["s3://bucket/data/b.jsonl"]),
        ("s3://bucket/data/b.jsonl", ["s3://bucket/data/b.jsonl"]),
    ):
        files = find_files([pattern], lambda url: s3).files
        assert [file.url for file in files] == expected
        assert all(len(list(read_documents(file, Columns("text", "id")))) == 4 for file in files)
    with pytest.raises(CorpusError, match="names no file"):
        find_files(["s3://bucket/data/none*.jsonl"], lambda url: s3)
    with pytest.raises(CorpusError, match="names no file"):
        find_files(["s3://bucket/data/missing.jsonl"], lambda url: s3)


def _locked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Tests may run as root, to whom every folder is open."""
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path) == str(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


@pytest.mark.parametrize("pattern", ["", "**", "**/*.jsonl", "*/deep/*.jsonl", "*/*/[xy].jsonl"])
def test_an_unreadable_folder_of_documents_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for name in ("a/deep/x.jsonl", "b/deep/x.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(JSONL)
    assert names(str(tmp_path / pattern)) == ["x.jsonl", "x.jsonl"]
    _locked(monkeypatch, tmp_path / "b" / "deep")
    with pytest.raises(
        CorpusError, match=r"^corpus\.documents: .*Permission denied.*b/deep.*right"
    ):
        names(str(tmp_path / pattern))
    # What nobody named may be as it likes.
    assert names(str(tmp_path / "a" / pattern.removeprefix("*/"))) == ["x.jsonl"]


def test_an_unreadable_prefix_of_object_storage_is_an_error(
    s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for name in ("a/x.jsonl", "b/x.jsonl"):
        Store("s3://bucket/data", s3).write(name, JSONL)
    listing = s3fs.S3FileSystem._lsdir

    async def refusing(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        found = await listing(self, path, *arguments, **options)
        if any("data/b" in info["name"].rpartition("/")[0] for info in found):
            raise PermissionError("Access Denied")
        return found

    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", refusing)
    for pattern in ("data", "data/*/*.jsonl", "data/**", "data/**/x.jsonl"):
        with pytest.raises(StorageError, match="Access Denied"):
            find_files([f"s3://bucket/{pattern}"], lambda url: s3)
    assert len(find_files(["s3://bucket/data/a/*.jsonl"], lambda url: s3).files) == 1


def test_links_are_followed_and_a_folder_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jsonl").write_bytes(JSONL)
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "link again").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    assert names(str(folder)) == ["x.jsonl"]


def test_hidden_files_are_read_where_they_are_named(tmp_path: Path) -> None:
    for name in ("a.jsonl", ".b.jsonl", ".c/d.jsonl", "e/f.jsonl", "e/.g/h.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JSONL)
    assert names(f"{tmp_path}/**/*.jsonl") == ["a.jsonl", "f.jsonl"]
    assert names(f"{tmp_path}/.*.jsonl") == [".b.jsonl"]
    assert names(f"{tmp_path}/.c/*") == ["d.jsonl"]
    assert names(f"{tmp_path}/.b.jsonl", f"{tmp_path}/.c") == [".b.jsonl", "d.jsonl"]
    assert names(str(tmp_path)) == ["a.jsonl", "f.jsonl"]


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    for name, body in (("a", JSONL), ("b", JSONL), ("c", JSONL + b" ")):
        (tmp_path / name).write_bytes(body)
    a, b, c = (file_digest(Store(str(tmp_path / name))) for name in "abc")
    assert a == b != c


def test_of_several_texts_the_one_that_is_to_blame_is_named(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl"
    path.write_text(
        '{"a": 5, "b": "one"}\n{"a": null, "b": 6}\n{"c": 1}\n{"a": null, "b": "two"}\n'
    )
    columns = Columns("a", "id", other_texts=("b",))
    *bad, last = read_documents(Store(str(path)), columns)
    assert [one.reason for one in bad if isinstance(one, BadDocument)] == [
        "'a' is not a string",
        "'b' is not a string",
        "'a' is missing",
    ]
    assert isinstance(last, Document)
    assert last.text == "two"
