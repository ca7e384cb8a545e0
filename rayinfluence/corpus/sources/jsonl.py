"""JSON: an object on each line, numbered as lines are; or objects in a list, or over lines."""

from __future__ import annotations

import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from rayinfluence.corpus.lines import other_encoding, text_of, value_of, why_none
from rayinfluence.corpus.sources.divisible import Cut, Slice, line_cuts
from rayinfluence.corpus.sources.source import (
    NAMED,
    RAW,
    NotDocumentsError,
    Refused,
    Row,
    Wanted,
    without_column,
)
from rayinfluence.corpus.sources.values import values

_OBJECT = re.compile(rb'\s*(\{\s*["}]|\[\s*\{)')
#: What is read ahead of a part.
_BUFFER = 2**20


class JsonLines:
    """Objects of JSON in UTF-8; empty lines are passed over.

    A file is one of lines unless its first line says otherwise: it begins a list, or an object that
    goes on. Objects of such files are numbered in their order.
    """

    endings = (".jsonl", ".ndjson", ".json", ".jsonlines", ".jl")
    seeks = False
    is_text = False

    def holds(self, begins: bytes) -> bool:
        """By the first object."""
        return _OBJECT.match(begins.removeprefix(BOM_UTF8)) is not None

    def refusal(self, begins: bytes) -> str | None:
        """It is in another encoding."""
        return other_encoding(begins)

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """The objects; a file is refused at its end if none had the key of the text."""
        keys: dict[str, None] = {}
        there, first = False, None
        for number, row in _objects(_bodies(stream)):
            if not there and isinstance(row, dict):
                # One row with the key is enough: rows without it are bad ones by themselves.
                there = not wanted.is_needed or wanted.text in row
                first = row if first is None else {}
                if len(keys) <= NAMED:
                    keys.update(dict.fromkeys(row))
            yield number, row
        if keys and not there:
            if hint := _hint(keys, first or {}):
                raise NotDocumentsError(hint)
            said = f"has no key {wanted.text!r} in any row; there are"
            raise without_column(said, keys, wanted.key)

    def cuts(self, stream: Any, part_bytes: int) -> list[Cut]:
        """Runs of lines, for which all of the file is read; none where objects go over lines."""
        return [] if _goes_on(stream.peek()) else line_cuts(stream, part_bytes)

    def part(self, stream: BinaryIO, wanted: Wanted, cut: Cut) -> Iterator[Row]:
        """The objects on some lines."""
        lines = io.BufferedReader(Slice(stream, cut.start, cut.end), _BUFFER)
        return _objects(lines, cut.rows_before)


def _hint(keys: Container[str], only: Mapping[str, Any]) -> str | None:
    """What a file is that has not the key of the text, where that is known.

    Args:
        keys: of its objects.
        only: its object, if it is one.
    """
    if "mapping" in keys and ("current_node" in keys or "conversation_id" in keys):
        return (
            "is an export of ChatGPT: each of its conversations is a tree of messages (`mapping`), "
            "of which one branch was read, from `current_node` up to the root. Write those "
            'messages in their order, as {"text": [{"role": ..., "content": ...}, ...]}, a '
            "conversation a line."
        )
    for key, value in only.items():
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            return (
                f"is one object, and its documents seem to be the list under {key!r}: write that "
                f"list by itself (`jq '.[{json.dumps(key)}]'`), and name that file."
            )
    return None


def _objects(bodies: Iterable[bytes], before: int = 0) -> Iterator[Row]:
    number, begun = before, before > 0
    for body in bodies:
        number += 1
        if body.isspace():
            continue  # an empty line; a value that is missing in a list has no bytes
        if not begun and (said := other_encoding(body)):
            raise NotDocumentsError(said)
        begun = True
        begins = body[:RAW]
        # One object may be most of what fits into memory, so nothing of it is held for longer than
        # the next step needs it; nor do those that give bodies hold them.
        try:
            text = text_of(body, number)
            del body
            row = value_of(text)
            del text
        except (ValueError, RecursionError) as error:
            yield number, Refused.of(why_none(error), begins)
            continue
        yield number, row if isinstance(row, dict) else Refused.of("not a JSON object", begins)


def _bodies(stream: Any) -> Iterable[bytes]:
    return values(stream) if _goes_on(stream.peek()) else stream


def _goes_on(begins: bytes) -> bool:
    """Whether the first line of a file that begins so is no whole object."""
    first, is_line, _ = begins.removeprefix(BOM_UTF8).lstrip().partition(b"\n")
    is_cut = is_line and first.rstrip().endswith((b"{", b"[", b",", b":"))
    return first.startswith(b"[") or bool(first.startswith(b"{") and is_cut)
