"""Metadata of documents: which columns are, what JSON holds of them, and values as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rayinfluence.storage.metadata import as_text, canonical

__all__ = ["as_text", "at_key", "canonical", "chosen", "dotted", "plain", "shown", "small"]

#: Characters of a value that is kept though nobody has asked for it: it is written with every
#: sequence of its document.
SMALL = 1000
#: Numbers of a list that is kept so: one of more is an embedding, or pixels.
_NUMBERS = 16


def at_key(row: Mapping[str, Any], key: str) -> Any:
    """What a row has by a dotted key, or None: a column of that name, or what is in one.

    ``meta.source`` is the column of that name where there is one, else the key ``source`` of the
    object ``meta``.
    """
    if key in row:
        return row[key]
    head, dot, rest = key.partition(".")
    while dot:
        if isinstance(inner := row.get(head), Mapping):
            found = at_key(inner, rest)
            if found is not None:
                return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def dotted(metadata: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """All keys by which :func:`at_key` finds something, of objects in objects too."""
    for key, value in metadata.items():
        yield before + key
        if isinstance(value, Mapping):
            yield from dotted(value, f"{before}{key}.")


def chosen(row: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The metadata of a row by dotted keys; what is null or not there is left out."""
    found = {key: at_key(row, key) for key in keys}
    return {key: value for key, value in found.items() if value is not None}


def small(row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The metadata of a row where nobody chose: what is small, and the keys of what is not.

    Bytes, and lists of more than a few numbers, are never small: they are an image, an embedding.
    """
    kept = {
        key: value for key, value in row.items() if value is not None and _length(value) <= SMALL
    }
    return kept, [key for key, value in row.items() if value is not None and key not in kept]


def plain(value: Any) -> Any:
    """A value as JSON can hold it: lists and objects stay, dates and the like become their text.

    NaN and infinity, which JSON does not have, and bytes that are no UTF-8 are objects that say so,
    and no text that somebody may have written. What is nested too deeply to be walked through is
    left out and says so.
    """
    try:
        return _plain(value)
    except RecursionError:
        return "nested too deeply"


def shown(text: str) -> tuple[str, str]:
    """What :func:`canonical` made, as :func:`as_text` shows it, and the type of the value in it."""
    value = json.loads(text)
    kinds = {str: "string", bool: "boolean", list: "list", dict: "object"}
    return as_text(value), kinds.get(type(value), "number")


def _length(value: Any) -> int:
    """About how many characters a value takes, counted no further than is wanted."""
    n, left = 0, [value]
    while left and n <= SMALL:
        one = left.pop()
        if isinstance(one, str):
            n += len(one) + 2
        elif isinstance(one, bytes | bytearray | memoryview):
            return SMALL + 1
        elif isinstance(one, Mapping):
            n += 2
            left += [*one.keys(), *one.values()]
        elif isinstance(one, Sequence):
            if len(one) > _NUMBERS and all(isinstance(inner, int | float) for inner in one):
                return SMALL + 1
            n += 2
            left += one
        else:
            n += 8
    return n


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, bytes):
        return value.decode() if _is_text(value) else {"bytes": value.hex()}
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
