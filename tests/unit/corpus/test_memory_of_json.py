"""What is held of an object of JSON while it is read: it may be most of what fits into memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pytest

from rayinfluence.corpus.sources.divisible import Cut
from rayinfluence.corpus.sources.jsonl import JsonLines
from rayinfluence.corpus.sources.source import Row, Wanted

SIZE = 2**24
TEXT = "w" * SIZE
LINE = json.dumps({"text": TEXT}).encode()
WANTED = Wanted("text")


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (LINE, lambda file: JsonLines().rows(file, WANTED)),
        (LINE, lambda file: JsonLines().part(file, WANTED, Cut(0, len(LINE), 0))),
        (b"[" + LINE + b", {}]", lambda file: JsonLines().rows(file, WANTED)),
        (LINE.replace(b"{", b"{\n"), lambda file: JsonLines().rows(file, WANTED)),
    ],
    ids=["a line", "a part", "a list", "over lines"],
)
def test_a_text_is_held_twice_while_it_is_parsed_and_once_afterwards(
    body: bytes, rows: Callable[[BinaryIO], Iterator[Row]]
) -> None:
    file = io.BufferedReader(io.BytesIO(body))
    tracemalloc.start()
    try:
        found = rows(file)
        _, row = next(found)
        assert isinstance(row, dict)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert row["text"] == TEXT
    assert held < 1.1 * SIZE
    assert peak < 2.3 * SIZE
