"""Metadata of documents: as JSON holds it, and as text that keeps different values apart."""

from __future__ import annotations

import json
import math
from typing import Any

from rayinfluence.storage.metadata import as_text, canonical

__all__ = ["as_text", "canonical", "plain", "shown"]


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
