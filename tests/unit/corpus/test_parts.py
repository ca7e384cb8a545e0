"""Where large files are cut, and that parts give what the file gives."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayinfluence.corpus.documents import file_digest, read_documents
from rayinfluence.corpus.forms import Columns
from rayinfluence.corpus.parts import is_cut, survey
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
        with file.open("") as raw:
            found += list(read_documents(file, COLUMNS, raw, part.cut))
    assert found == list(read_documents(file, COLUMNS))
    assert len(found) >= 150


def test_what_is_compressed_or_has_quoted_line_ends_is_not_cut() -> None:
    names = ["d.jsonl", "d.ndjson", "d.parquet", "d.jsonl.gz", "d.jsonl.zst", "d.csv", "d.tsv.bz2"]
    assert [name for name in names if is_cut(name, 11, 10)] == names[:3]
    assert not any(is_cut(name, 10, 10) for name in names)


def test_a_file_that_is_not_what_its_name_says_is_refused_before_it_is_cut(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n' * 100, "utf-16")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and nothing more")
    for name, said in (("d.jsonl", "UTF-16"), ("d.parquet", "cannot be read to its end")):
        with pytest.raises(CorpusError, match=said):
            survey(Store(str(tmp_path / name)), 10)
