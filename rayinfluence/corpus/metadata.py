"""Metadata of documents: as JSON holds it, and as text that keeps different values apart."""

from __future__ import annotations

import json
import math
from typing import Any

from rayinfluence.storage.digest import canonical_json

#: Up to here every whole float64 is written as the number that it is; beyond, by its exponent.
_WRITTEN_OUT = 2.0**53


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


def canonical(value: Any) -> str:
    """One JSON text for each value: keys sorted, numbers by their value (1.0 is 1).

    1 and "1", true and "true" are different values, and have different texts.
    """
    return canonical_json(_by_value(value))


def as_text(value: Any) -> str:
    """A string as it is, anything else as canonical JSON: how tables and reports show a value."""
    return value if isinstance(value, str) else canonical(value)


def shown(text: str) -> tuple[str, str]:
    """What :func:`canonical` made, as :func:`as_text` shows it, and the type of the value in it."""
    value = json.loads(text)
    kinds = {str: "string", bool: "boolean", list: "list", dict: "object"}
    return as_text(value), kinds.get(type(value), "number")


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


def _is_float(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _by_value(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= _WRITTEN_OUT:
        return int(value)
    if isinstance(value, int) and abs(value) > _WRITTEN_OUT and _is_float(value):
        return float(value)
    if isinstance(value, dict):
        return {key: _by_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_by_value(inner) for inner in value]
    return value
