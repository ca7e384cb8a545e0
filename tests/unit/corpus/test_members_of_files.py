"""Files of several compressed members: all are read, and damage in any of them is told."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.corpus.documents import read_documents
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.sources.compression import zstd
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.errors import CorpusError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    # As the command writes it; without a checksum a flipped byte may be seen by nobody.
    "zst": lambda body: zstd.compress(
        body, options={zstd.CompressionParameter.checksum_flag: True}
    ),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def members(kind: str) -> list[bytes]:
    return [COMPRESS[kind](b'{"text": "of member %d"}\n' % n * 50) for n in range(4)]


def texts(path: Path, body: bytes) -> list[str]:
    path.write_bytes(body)
    found = list(read_documents(Store(str(path)), Columns("text", "id")))
    assert all(isinstance(one, Document) for one in found)
    return [one.text for one in found if isinstance(one, Document)]


@pytest.mark.parametrize("kind", COMPRESS)
def test_all_members_are_read(tmp_path: Path, kind: str) -> None:
    found = texts(tmp_path / f"a.jsonl.{kind}", b"".join(members(kind)))
    assert found == [f"of member {n}" for n in range(4) for _ in range(50)]


def a_flipped_byte(parts: list[bytes]) -> bytes:
    # In the middle: what is packed, whose check does not hold any more.
    place = len(parts[2]) // 2
    parts[2] = parts[2][:place] + bytes([parts[2][place] ^ 0xFF]) + parts[2][place + 1 :]
    return b"".join(parts)


def a_damaged_header(parts: list[bytes]) -> bytes:
    parts[2] = b"?" + parts[2][1:]
    return b"".join(parts)


def cut_short(parts: list[bytes]) -> bytes:
    return b"".join(parts)[:-12]


def cut_in_a_header(parts: list[bytes]) -> bytes:
    return b"".join(parts[:2]) + parts[2][:3]


def something_behind(parts: list[bytes]) -> bytes:
    return b"".join(parts) + b'{"text": "plain"}\n'


@pytest.mark.parametrize(
    "harm", [a_flipped_byte, a_damaged_header, cut_short, cut_in_a_header, something_behind]
)
@pytest.mark.parametrize("kind", COMPRESS)
def test_no_row_is_lost_in_silence(
    tmp_path: Path, kind: str, harm: Callable[[list[bytes]], bytes]
) -> None:
    with pytest.raises(CorpusError, match=rf"a\.jsonl\.{kind} cannot be read to its end"):
        texts(tmp_path / f"a.jsonl.{kind}", harm(members(kind)))


def test_zeros_in_fours_may_follow_a_member_of_xz(tmp_path: Path) -> None:
    parts = members("xz")
    path = tmp_path / "a.jsonl.xz"
    assert len(texts(path, (b"\0" * 8).join(parts) + b"\0" * 2**18)) == 200
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        texts(path, b"\0\0\0".join(parts))
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        texts(path, b"".join(parts) + b"\0" * 5)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("name", ["b.jsonl", "b"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_one_that_is_cut_short_is_no_reason_to_stop_before_it_is_read(
    tmp_path: Path, change: Callable[..., RunConfig], kind: str, name: str, is_folder: bool
) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "w1 w2 w3"}\n')
    bad = folder / f"{name}.{kind}"
    bad.write_bytes(members(kind)[0][:-20])
    place = str(folder if is_folder else bad)
    found = find_files([place], lambda url: {})
    assert not found.left_out
    assert str(bad) in [file.url for file in found.files]
    config = change(tiny_run(tmp_path), corpus={"documents": [place], "bad_files": 3})
    assert len(Inputs.of(config).documents.files) == len(found.files)
    with pytest.raises(CorpusError, match="cannot be read to its end"):
        list(read_documents(Store(str(bad)), Columns("text", "id")))
