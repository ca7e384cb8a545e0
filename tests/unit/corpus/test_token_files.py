"""Files of ids and nothing else: each kind written here as its trainers write it, and damaged."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayinfluence.corpus import token_files
from rayinfluence.corpus.documents import (
    BadDocument,
    file_digest,
    read_documents,
    refuse_other_content,
)
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.parts import survey
from rayinfluence.corpus.token_files import with_index
from rayinfluence.corpus.token_rows import TokenForm
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store
from rayinfluence.testing.token_files import write_megatron

SEQUENCES = [[4, 5, 0], [6, 0], [7, 8, 9, 10, 0]]
FLAT = [token for one in SEQUENCES for token in one]


def columns(**form: Any) -> Columns:
    return Columns("input_ids", "id", tokens=TokenForm("input_ids", **{"context": 4} | form))


def read(path: Path, **form: Any) -> list[tuple[int | None, int, list[int]]]:
    """The row of each document, its place in the file, and its ids."""
    found = []
    file = Store(str(path))
    refuse_other_content(file, columns(**form).tokens)
    for one in read_documents(file, columns(**form)):
        assert isinstance(one, Document)
        assert one.tokens is not None
        first = one.metadata["first_token"] + one.token_start
        found.append((one.row, first, one.tokens.tokens_T.tolist()))
    return found


def flat(path: Path, tokens: list[int], dtype: str = "uint16") -> Path:
    np.array(tokens, dtype).tofile(path)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_sequences_of_megatron_are_rows(tmp_path: Path, dtype: str) -> None:
    path = write_megatron(tmp_path / "text_document.bin", SEQUENCES, dtype)
    wanted = [(1, 0, [4, 5, 0]), (2, 3, [6, 0]), (3, 5, [7, 8, 9, 10, 0])]
    assert read(path) == wanted
    # Whatever a configuration says of files without a header.
    assert read(path, dtype="uint32") == wanted


def test_documents_of_several_sequences_are_named(tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "a.bin", SEQUENCES, documents=[0, 2, 3])
    found = list(read_documents(Store(str(path)), columns()))
    assert [one.metadata["document"] for one in found if isinstance(one, Document)] == [0, 0, 1]


def test_packed_rows_of_megatron_are_cut_at_separators(tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "packed.bin", [FLAT[:6], FLAT[6:]])
    assert read(path) == [(1, 0, FLAT[:6]), (2, 6, FLAT[6:])]
    assert read(path, packing="separate", separator=0) == [
        (1, 0, [4, 5, 0]),
        (1, 3, [6, 0]),
        (1, 5, [7]),
        (2, 6, [8, 9, 10, 0]),
    ]


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int32", "int64"])
def test_bare_ids_are_windows_or_documents(tmp_path: Path, dtype: str) -> None:
    path = flat(tmp_path / "train.bin", FLAT, dtype)
    assert read(path, dtype=dtype) == [(1, 0, FLAT[:4]), (2, 4, FLAT[4:8]), (3, 8, FLAT[8:])]
    overlapping = read(path, dtype=dtype, overlap=1)
    assert overlapping == [(1, 0, FLAT[:4]), (2, 3, FLAT[3:7]), (3, 6, FLAT[6:])]
    separate = {"dtype": dtype, "packing": "separate", "separator": 0}
    assert [tokens for _, _, tokens in read(path, **separate)] == SEQUENCES
    found = read(path, **separate, separator_at="start")
    assert [tokens for _, _, tokens in found] == [[4, 5], [0, 6], [0, 7, 8, 9, 10], [0]]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
def test_documents_do_not_depend_on_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(token_files, "_BLOCK", block)
    path = flat(tmp_path / "train.bin", [0, 0, *FLAT, 9])
    form: dict[str, Any] = {"dtype": "uint16", "packing": "separate", "separator": 0}
    assert [tokens for _, _, tokens in read(path, **form)] == [[0], [0], *SEQUENCES, [9]]
    starts = [[0], [0, 4, 5], [0, 6], [0, 7, 8, 9, 10], [0, 9]]
    found = read(path, **form, separator_at="start")
    assert [tokens for _, _, tokens in found] == starts


def test_a_window_that_brings_nothing_new_is_none(tmp_path: Path) -> None:
    path = flat(tmp_path / "train.bin", FLAT[:7])
    assert read(path, dtype="uint16", overlap=1) == [(1, 0, FLAT[:4]), (2, 3, FLAT[3:7])]
    assert read(flat(tmp_path / "none.bin", []), dtype="uint16") == []


def test_headers_say_what_ids_are(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.array(FLAT, np.uint32))
    assert read(tmp_path / "flat.npy")[0] == (1, 0, FLAT[:4])
    # A table has its own rows.
    np.save(tmp_path / "rows.npy", np.array(FLAT, np.int32).reshape(2, 5))
    assert read(tmp_path / "rows.npy") == [(1, 0, FLAT[:5]), (2, 5, FLAT[5:])]
    # OLMo's have the name and no header.
    assert read(flat(tmp_path / "part-0.npy", FLAT), dtype="uint16")[0] == (1, 0, FLAT[:4])
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(FLAT)
    body = header.tobytes() + np.array(FLAT, "<u2").tobytes()
    (tmp_path / "fineweb_train_000001.bin").write_bytes(body)
    assert read(tmp_path / "fineweb_train_000001.bin")[1] == (2, 4, FLAT[4:8])


def damaged_index(path: Path, place: int, body: bytes) -> None:
    index = bytearray(path.with_suffix(".idx").read_bytes())
    index[place : place + len(body)] = body
    path.with_suffix(".idx").write_bytes(index)


def test_an_index_that_is_none_of_its_ids_is_refused_before_they_are_read(tmp_path: Path) -> None:
    def refused(said: str, bare: bool = False) -> None:
        with pytest.raises(CorpusError, match=said):
            refuse_other_content(Store(str(path)), columns().tokens)
        with pytest.raises(CorpusError, match=said):
            list(read_documents(Store(str(path)), columns()))

    path = tmp_path / "a.bin"
    write_megatron(path, SEQUENCES)
    path.write_bytes(path.read_bytes()[:-2])
    refused(r"a\.idx disagrees with its file of ids: .* 20 bytes together, and the file has 18")
    write_megatron(path, SEQUENCES)
    path.with_suffix(".idx").write_bytes(path.with_suffix(".idx").read_bytes()[:-1])
    refused(r"a\.idx has 101 bytes, and one of 3 sequences and 4 borders has 102")
    write_megatron(path, SEQUENCES)
    damaged_index(path, 9, struct.pack("<Q", 2))
    refused("version 2")
    damaged_index(path, 9, struct.pack("<QB", 1, 7))
    refused("an id is of type 7")
    damaged_index(path, 17, struct.pack("<B", 4))
    refused("that sequence 2 begins at byte 6, and those before it end at byte 12")
    write_megatron(path, SEQUENCES)
    damaged_index(path, 34, struct.pack("<i", -3))
    refused("less than no tokens")
    write_megatron(path, SEQUENCES, documents=[0, 2])
    refused("borders of documents")
    path.with_suffix(".idx").write_bytes(b"TNTIDX\0\0" + b"\0" * 50)
    refused("old format")
    path.with_suffix(".idx").write_bytes(b"something else")
    refused("is no index of Megatron")


@pytest.mark.parametrize(
    ("name", "body", "form", "said"),
    [
        ("a.bin", b"\1\0\2", {"dtype": "uint16"}, "3 bytes, which is no whole number of ids"),
        ("a.bin", b"\1\0\2\0", {}, r"has no header.*corpus\.tokens\.dtype"),
        (
            "a.bin",
            b"\1\0",
            {"dtype": "uint16", "packing": "separate"},
            r"corpus\.tokens\.separator",
        ),
        (
            "a.bin",
            b"\1\0",
            {"dtype": "uint16", "packing": "separate", "separator": 0},
            "has no id 0 .* among its 1 tokens",
        ),
        ("a.idx", b"MMIDIDX\0\0" + b"\0" * 30, {"dtype": "uint16"}, r"name the \.bin beside it"),
        ("a.bin.zst", b"\x28\xb5\x2f\xfd" * 4, {"dtype": "uint16"}, "compressed .zstd. as a whole"),
        ("a.npy", b"\x93NUMPY\1\0nonsense", {}, "its header is none"),
        ("a.bin", np.array([20240520, 1, 5], "<i4").tobytes(), {}, "speaks of 1,034"),
    ],
)
def test_what_is_no_file_of_ids_is_refused(
    tmp_path: Path, name: str, body: bytes, form: dict[str, Any], said: str
) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(CorpusError, match=said):
        read(tmp_path / name, **form)


@pytest.mark.parametrize(
    ("array", "form", "said"),
    [
        (np.zeros(3, np.float32), {}, "array of float32"),
        (np.zeros(3, ">i4"), {}, "array of >i4"),
        (np.zeros((1, 2, 3), np.int32), {}, r"shape \(1, 2, 3\)"),
        (np.asfortranarray(np.zeros((4, 3), np.int32)), {}, "in the order of columns"),
        (np.zeros(3, np.int32), {"dtype": "uint16"}, "says itself that its ids are int32"),
        (np.array([{}, []], object), {}, "array of object"),
    ],
)
def test_arrays_of_other_things_are_refused(
    tmp_path: Path, array: np.ndarray, form: dict[str, Any], said: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(CorpusError, match=said):
        read(tmp_path / "a.npy", **form)


def test_an_array_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(FLAT, np.uint32))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-4])
    with pytest.raises(CorpusError, match="164 bytes, and its header speaks of 168"):
        read(tmp_path / "a.npy")


def test_negative_ids_are_bad_rows(tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "a.bin", [[4, 5], [4, -5], [6, 7]], "int32")
    found = list(read_documents(Store(str(path)), columns()))
    assert [one.reason for one in found if isinstance(one, BadDocument)] == [
        "'input_ids' has -5 at place 1, and no token id is negative"
    ]
    assert len(found) == 3


def test_an_index_is_a_part_of_what_its_file_is(tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "a.bin", SEQUENCES)
    file = Store(str(path))
    before = file_digest(file), with_index(file, file.info())
    copy = write_megatron(tmp_path / "b.bin", SEQUENCES)
    assert file_digest(Store(str(copy))) == before[0]
    body = path.read_bytes()
    write_megatron(path, [FLAT[:6], FLAT[6:]])
    assert path.read_bytes() == body
    assert file_digest(file) != before[0]
    assert with_index(file, file.info()) != before[1]


def test_folders_have_files_of_ids_where_documents_are_those(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a.bin", SEQUENCES)
    flat(tmp_path / "b.npy", FLAT)
    (tmp_path / "README.md").write_text("About it.")
    (tmp_path / "meta.pkl").write_bytes(b"\x80\4")
    found = find_files([str(tmp_path)], lambda url: {}, tokens=True)
    assert [file.name for file in found.files] == ["a.bin", "b.npy"]
    assert {why: left.names for why, left in found.left_out.items()} == {
        "indices, read with their .bin": ["a.idx"],
        "of other kinds": ["meta.pkl"],
        "texts beside data": ["README.md"],
    }
    by_glob = find_files([str(tmp_path / "a.*")], lambda url: {}, tokens=True)
    assert [file.name for file in by_glob.files] == ["a.bin"]
    # Among texts they are of other kinds, and one that is named is told what is missing.
    texts = find_files([str(tmp_path)], lambda url: {})
    assert texts.left_out["of other kinds"].names == ["a.bin", "a.idx", "b.npy", "meta.pkl"]
    with pytest.raises(CorpusError, match=r"a\.bin may hold token ids, .*corpus\.tokens"):
        find_files([str(tmp_path / "a.bin")], lambda url: {})


#: Documents of several lengths, the last of them without its separator.
LONG = [(7 * place) % 23 + 1 if place % 5 else 0 for place in range(1, 199)]


@pytest.mark.parametrize("part_bytes", [1, 6, 40, 130, 10**6])
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("flat", {}),
        ("flat", {"context": 7, "overlap": 3}),
        ("flat", {"context": 1000}),
        ("flat", {"packing": "separate", "separator": 0}),
        ("flat", {"packing": "separate", "separator": 0, "separator_at": "start"}),
        ("table", {}),
        ("table", {"packing": "separate", "separator": 0}),
        ("megatron", {}),
        ("megatron", {"packing": "separate", "separator": 0}),
    ],
)
def test_parts_have_the_rows_of_the_file_with_their_places(
    tmp_path: Path, kind: str, form: dict[str, Any], part_bytes: int
) -> None:
    if kind == "megatron":
        sequences = [LONG[:3], [], LONG[3:60], LONG[60:61], LONG[61:]]
        path = write_megatron(tmp_path / "a.bin", sequences, documents=[0, 2, 5])
    elif kind == "table":
        path = tmp_path / "a.npy"
        np.save(path, np.array(LONG, "<u2").reshape(-1, 6))
    else:
        path, form = flat(tmp_path / "a.bin", LONG), {"dtype": "uint16", **form}
    file, wanted = Store(str(path)), columns(**form)
    whole = list(read_documents(file, wanted))
    parts = survey(file, part_bytes, wanted.tokens)
    assert {part.file_digest for part in parts} == {file_digest(file)}
    found = [one for part in parts for one in read_documents(file, wanted, cut=part.cut)]
    assert [vars(one).keys() for one in found] == [vars(one).keys() for one in whole]
    assert list(map(told, found)) == list(map(told, whole))
    # The last sequence begins at byte 122, and a row is not cut.
    is_one = part_bytes == 10**6 or form.get("context") == 1000
    assert (len(parts) == 1) == (is_one or (kind, part_bytes) == ("megatron", 130))


def told(one: Document | BadDocument) -> tuple[Any, ...]:
    assert isinstance(one, Document)
    assert one.tokens is not None
    ids = one.tokens.tokens_T.tolist()
    return one.document_id, one.row, one.metadata, one.token_start, ids
