"""Where large files are cut, and that parts give what the file gives."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.corpus.documents import file_digest, read_documents
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.parts import survey
from rayinfluence.corpus.sources import divisible
from rayinfluence.corpus.sources.divisible import Cut, Slice, line_cuts
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store

COLUMNS = Columns("text", "id")


def naive_cuts(body: bytes, part_bytes: int) -> list[Cut]:
    cuts, start, end, before = [], 0, 0, 0
    for lines, line in enumerate(io.BytesIO(body), start=1):
        end += len(line)
        if end - start >= part_bytes and line.endswith(b"\n"):
            cuts.append(Cut(start, end, before))
            start, before = end, lines
    return cuts + ([Cut(start, end, before)] if end > start else [])


@pytest.mark.parametrize("block", [1, 3, 7, 64, 2**22])
@pytest.mark.parametrize("part_bytes", [1, 2, 10, 50, 10**6])
def test_lines_are_cut_at_their_ends(
    block: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divisible, "_BLOCK", block)
    rng = np.random.default_rng(block * part_bytes)
    for ending in (b"\n", b""):
        lines = [b"x" * int(n) for n in rng.integers(0, 25, 40)]
        body = b"\n".join([*lines, b"\r", b"\xe2\x80\xa8"]) + ending
        assert line_cuts(io.BytesIO(body), part_bytes) == naive_cuts(body, part_bytes)
    assert line_cuts(io.BytesIO(b""), part_bytes) == []


def test_a_slice_ends_where_it_ends_and_a_file_that_has_become_shorter_is_told() -> None:
    body = io.BytesIO(b"0123456789")
    assert io.BufferedReader(Slice(body, 2, 7)).read() == b"23456"
    with pytest.raises(EOFError, match="2 bytes fewer"):
        io.BufferedReader(Slice(body, 8, 12)).read()


def rows(n: int) -> list[dict[str, object]]:
    return [{"text": f"w{i} " * (i % 7), "n": i} for i in range(n)]


def jsonl(path: Path, n: int) -> Path:
    lines = [json.dumps(row).encode() for row in rows(n)]
    lines[20:20] = [b"", b"  ", b"{not json", b"[1]", b'{"text": null}', b'{"other": 1}']
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))  # the last line has no end
    return path


def parquet(path: Path, n: int) -> Path:
    pq.write_table(pa.Table.from_pylist(rows(n)), path, row_group_size=17)
    return path


@pytest.mark.parametrize("make", [jsonl, parquet])
@pytest.mark.parametrize("part_bytes", [1, 300, 2000, 10**7])
def test_parts_have_the_documents_of_the_file_with_their_numbers(
    make: object, part_bytes: int, tmp_path: Path
) -> None:
    assert make in (jsonl, parquet)
    path = (jsonl if make is jsonl else parquet)(tmp_path / f"d.{make.__name__}", 150)
    file = Store(str(path))
    parts = survey(file, part_bytes)
    assert {part.file_digest for part in parts} == {file_digest(file)}
    assert (len(parts) > 1) == (part_bytes < 10**7)
    found = []
    for part in parts:
        found += list(read_documents(file, COLUMNS, cut=part.cut))
    assert found == list(read_documents(file, COLUMNS))
    assert len(found) >= 150


LINES = b"".join(json.dumps(row).encode() + b"\n" for row in rows(50))


@pytest.mark.parametrize(
    ("name", "body", "is_cut"),
    [
        ("lines.jsonl", LINES, True),
        ("lines", LINES, True),
        ("lines.csv", LINES, True),
        ("packed.jsonl.gz", gzip.compress(LINES), False),
        ("packed.jsonl", gzip.compress(LINES), False),
        ("list.jsonl", json.dumps(rows(50)).encode(), False),
        ("list.json", json.dumps(rows(50), indent=1).encode(), False),
        ("objects.jsonl", b"\n".join(json.dumps(r, indent=1).encode() for r in rows(50)), False),
        ("quoted.csv", b'text,n\n"a\nb",1\n' * 50, False),
        ("notes.txt", b"a line\n" * 50, False),
        ("empty.jsonl", b"", False),
    ],
)
def test_what_a_file_holds_tells_whether_it_is_cut(
    name: str, body: bytes, is_cut: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(body)
    file = Store(str(tmp_path / name))
    parts = survey(file, 100)
    assert (len(parts) > 1) == is_cut
    assert is_cut or not parts
    found = []
    for part in parts:
        found += list(read_documents(file, COLUMNS, cut=part.cut))
    assert not is_cut or found == list(read_documents(file, COLUMNS))


def test_a_part_of_a_file_that_has_become_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(LINES)
    part = survey(Store(str(tmp_path / "d")), 100)[0]
    (tmp_path / "d").write_bytes(gzip.compress(b"text\nof another kind"))
    with pytest.raises(CorpusError, match="is of no format"):
        list(read_documents(Store(str(tmp_path / "d")), COLUMNS, cut=part.cut))
    (tmp_path / "d").write_bytes(b"<html><body>a page</body></html>")
    with pytest.raises(CorpusError, match="another file than it was"):
        list(read_documents(Store(str(tmp_path / "d")), COLUMNS, cut=part.cut))


def test_parts_of_tables_read_the_columns_that_are_wanted(tmp_path: Path) -> None:
    file = Store(str(parquet(tmp_path / "d.parquet", 60)))
    columns = Columns("text", "id", metadata=("n",))
    parts = survey(file, 300)
    assert len(parts) > 1
    found = [one for part in parts for one in read_documents(file, columns, cut=part.cut)]
    assert found == list(read_documents(file, columns))
    assert [one.metadata for one in found if isinstance(one, Document)] == [
        {"n": n} for n in range(60)
    ]


def test_a_file_that_is_not_what_its_name_says_is_refused_before_it_is_cut(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n' * 100, "utf-16")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and nothing more")
    for name, said in (("d.jsonl", "UTF-16"), ("d.parquet", "cannot be read to its end")):
        with pytest.raises(CorpusError, match=said):
            survey(Store(str(tmp_path / name)), 10)
