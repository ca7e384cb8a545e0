"""JSON values that are on no lines of their own: one after another, or in a list."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import BinaryIO

_CHUNK = 2**16
_INSIDE = re.compile(rb'["\\]')
_OUTSIDE = re.compile(rb'["{}\[\],]')
#: What may stand between values that are in no list, as where a list has lost its brackets.
_BETWEEN = b" \t\r\n,"


def values(stream: BinaryIO) -> Iterator[bytes]:
    """The bytes of each value of a file, as soon as they are there; none is parsed.

    Of a file that is a list these are its elements, without what is around them, so that of one
    that is missing there are none. Where they end is told by brackets and quotes
    alone, so that a value that is no JSON is one by itself, and the next is whole.

    Raises:
        EOFError: the file ends within a value or a list, or has something after its list.
    """
    scan = _Scan()
    while chunk := stream.read(_CHUNK):
        yield from scan.values(chunk)
    yield from scan.end()


class _Scan:
    """Where a scan is: how deep in brackets, whether in a string, and what it holds of a value."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._depth = 0
        self._in_string = False
        self._is_escaped = False
        self._begun = False
        self._in_list = False
        self._is_over = False

    def values(self, chunk: bytes) -> Iterator[bytes]:
        """The values that end in a chunk."""
        if self._is_over:
            self._held += chunk
            return
        start, place = 0, 0
        if self._is_escaped:
            self._is_escaped, place = False, 1
        while mark := (_INSIDE if self._in_string else _OUTSIDE).search(chunk, place):
            place = mark.end()
            what = mark[0]
            if what == b"\\":
                self._is_escaped = place == len(chunk)
                place += 1
            elif what == b'"':
                self._in_string = not self._in_string
            elif what == b"," and not (self._in_list and self._depth == 1):
                pass
            elif what in b"{[":
                self._depth += 1
                if not self._begun:
                    self._begun, self._in_list = True, what == b"["
                    start = place if self._in_list else start
            elif what == b"," or self._depth == 1:
                # The end of an element, of a list with its last one, or of a value by itself.
                ends = what != b","
                self._depth -= ends
                self._held += chunk[start : place - 1 if self._in_list else place]
                start = place
                if ends and self._in_list and (not self._held or self._held.isspace()):
                    self._held.clear()
                else:
                    yield self._taken()
                if ends and self._in_list:
                    self._is_over = True
                    break
            else:
                self._depth = max(self._depth - 1, 0)
        self._held += chunk[start:]

    def _taken(self) -> bytes:
        # One value may be most of a file: whoever asks for it holds it alone.
        value = bytes(self._held)
        self._held = bytearray()
        return value.strip() if self._in_list else value.lstrip(_BETWEEN)

    def end(self) -> Iterator[bytes]:
        """What is left at the end of the file."""
        left = bytes(self._held).removeprefix(BOM_UTF8).strip()
        if not self._in_list:
            left = left.lstrip(_BETWEEN)
        if self._depth > 0 or self._in_string:
            raise EOFError("it ends within a list or an object")
        if left and self._is_over:
            raise EOFError("it has something after the end of its list")
        if left:
            yield left
