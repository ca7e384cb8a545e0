"""JSON lines: an object on each line, numbered as lines are."""

from __future__ import annotations

import io
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from rayinfluence.corpus.lines import other_encoding, parsed, why_none
from rayinfluence.corpus.sources.divisible import Cut, Slice, line_cuts
from rayinfluence.corpus.sources.source import (
    NAMED,
    NotDocumentsError,
    Refused,
    Row,
    without_column,
)

#: What is read ahead of a part.
_BUFFER = 2**20


class JsonLines:
    """Lines of JSON in UTF-8; empty ones are passed over."""

    endings = (".jsonl", ".ndjson")
    seeks = False
    begins = ()

    def refusal(self, begins: bytes) -> str | None:
        """It is in another encoding."""
        return other_encoding(begins)

    def rows(self, stream: BinaryIO, text_column: str) -> Iterator[Row]:
        """The objects; a file is refused at its end if none had the key of the text."""
        keys: dict[str, None] = {}
        there = False
        for number, row in _objects(stream):
            if not there and isinstance(row, dict):
                # One row with the key is enough: rows without it are bad ones by themselves.
                there = text_column in row
                if len(keys) <= NAMED:
                    keys.update(dict.fromkeys(row))
            yield number, row
        if keys and not there:
            raise without_column(f"has no key {text_column!r} in any line; there are", keys)

    def cuts(self, stream: BinaryIO, part_bytes: int) -> list[Cut]:
        """Runs of lines; all of the file is read."""
        return line_cuts(stream, part_bytes)

    def part(self, stream: BinaryIO, text_column: str, cut: Cut) -> Iterator[Row]:
        """The objects on some lines."""
        lines = io.BufferedReader(Slice(stream, cut.start, cut.end), _BUFFER)
        return _objects(lines, cut.rows_before)


def _objects(lines: Iterable[bytes], before: int = 0) -> Iterator[Row]:
    begun = before > 0
    for number, line in enumerate(lines, start=before + 1):
        if not line.strip():
            continue
        if not begun and (said := other_encoding(line) or _several_lines(line)):
            raise NotDocumentsError(said)
        begun = True
        try:
            row = parsed(line, number)
        except (ValueError, RecursionError) as error:
            yield number, Refused.of(why_none(error), line)
            continue
        yield number, row if isinstance(row, dict) else Refused.of("not a JSON object", line)


def _several_lines(first: bytes) -> str | None:
    """Why a file that begins with such a line is one JSON value, or None where it may be lines."""
    first = first.removeprefix(BOM_UTF8).strip()
    if first.startswith(b"["):
        return (
            "begins with a JSON list, and documents are read as JSON lines: write each object on a "
            "line of its own (`jq -c '.[]'` does so)."
        )
    if first == b"{":
        return (
            "has JSON objects over several lines each, and documents are read as JSON lines: write "
            "each on a line of its own (`jq -c .` does so)."
        )
    return None
