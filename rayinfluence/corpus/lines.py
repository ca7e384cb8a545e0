"""Lines of JSONL: UTF-8, as JSON is exchanged, and never guessed from the bytes."""

from __future__ import annotations

import json
import re
import sys
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE
from collections.abc import Callable
from typing import Any

#: Two characters of UTF-16, or one of UTF-32.
_FIRST = 4
#: How texts begin that are not in UTF-8. That of UTF-32 in little-endian begins as UTF-16's does.
_OTHERS = (BOM_UTF16_LE, BOM_UTF16_BE, BOM_UTF32_BE)


#: Of these control characters a text has none; binary formats have some soon after their mark.
_CONTROLS = bytes({*range(7), *range(14, 27), *range(28, 32)})
#: Enough of a file to tell.
_BEGINNING = 4096
#: Of what JSON is made of, besides strings: `\\ud83d\\ude00`, `-Infinity`.
_LONGEST_PART = 12
#: Halves of surrogate pairs, and the escapes that alone they come from.
_OF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
#: Python makes no number of more.
_MOST_DIGITS = sys.get_int_max_str_digits()
_HALF = re.compile("[\ud800-\udfff]")


def is_binary(begins: bytes) -> bool:
    """Whether a file that begins so is no text, though it begin with letters (PARENTS, ORCID)."""
    beginning = begins[:_BEGINNING]
    return len(beginning.translate(None, _CONTROLS)) < len(beginning)


def may_be_json(begins: bytes) -> bool:
    """Whether a file that begins so is values of JSON, one after another, as far as it is seen."""
    text = begins[:_BEGINNING].removeprefix(BOM_UTF8).decode(errors="replace").lstrip()
    decoder = json.JSONDecoder()
    while text:
        try:
            _, end = decoder.raw_decode(text)
        except ValueError as error:
            # The last value goes on beyond what is seen; it may end within a string or a word.
            part = _LONGEST_PART if len(begins) >= _BEGINNING else 0
            return "Unterminated" in str(error) or getattr(error, "pos", 0) + part >= len(text)
        except RecursionError:
            return True
        text = text[end:].lstrip()
    return True


def other_encoding(begins: bytes) -> str | None:
    """Why a file of JSON lines that begins so is not read, or None where it may be UTF-8.

    The first two characters of JSON are ASCII, which has a zero byte in UTF-16 and UTF-32 alone.
    """
    if begins.startswith(_OTHERS):
        said = "is in UTF-16 or UTF-32, as its first bytes say"
    elif b"\0" in begins[:_FIRST]:
        said = "begins with zero bytes, so it is in UTF-16 or UTF-32, or damaged"
    else:
        return None
    return f"{said}. JSON lines are read as UTF-8: save it as UTF-8, or copy it again."


def why_none(error: Exception) -> str:
    """Why :func:`parsed` has found no value in a line, from what it raised: "not JSON: ..."."""
    if isinstance(error, _TwiceError):
        return f"not to be told: {error}"
    if isinstance(error, UnicodeDecodeError):
        return (
            f"not UTF-8: it has the byte 0x{error.object[error.start]:02x}, as text in another "
            "encoding does; JSON is read as UTF-8, so save the file as UTF-8"
        )
    if isinstance(error, UnicodeEncodeError):
        half = f"\\u{ord(error.object[error.start]):04x}"
        return f"no text: it has {half}, which is half a character"
    if isinstance(error, RecursionError):
        return "not to be read: it is nested too deeply"
    if "integer string conversion" in str(error):
        return f"not to be read: it has a whole number of more than {_MOST_DIGITS:,} digits"
    return f"not JSON: {error}"


class _TwiceError(ValueError):
    """A key stands twice in an object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _TwiceError(f"the key {twice!r} stands twice in it, and the first would be lost")
    return found


def parsed(line: bytes, number: int, refuse: Callable[[str], Any] | None = None) -> Any:
    """The value of a line of a file; the first may begin with a mark of UTF-8.

    Args:
        line: its bytes.
        number: which line it is, from 1.
        refuse: called with NaN, Infinity and -Infinity, which are not JSON.

    Raises:
        ValueError: it is not UTF-8, or :func:`value_of` its text raises it.
        RecursionError: it is nested too deeply.
    """
    return value_of(text_of(line, number), refuse)


def text_of(line: bytes, number: int) -> str:
    """The text of a line, from its bytes; the first may begin with a mark of UTF-8.

    Raises:
        ValueError: it is not UTF-8.
    """
    return (line.removeprefix(BOM_UTF8) if number == 1 else line).decode()


def value_of(text: str, refuse: Callable[[str], Any] | None = None) -> Any:
    """The value that a text is.

    Args:
        text: to parse.
        refuse: called with NaN, Infinity and -Infinity, which are not JSON.

    Raises:
        ValueError: it is not JSON, holds half a surrogate pair, which is no text, or has an object
            with a key that stands twice.
        RecursionError: it is nested too deeply.
    """
    row = json.loads(text, parse_constant=refuse, object_pairs_hook=_object)
    if _OF_A_PAIR.search(text):
        _refuse_halves(row)
    return row


def _refuse_halves(value: Any) -> None:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and (half := _HALF.search(one)):
            half[0].encode()  # which raises: all of a long text need not be copied for it
