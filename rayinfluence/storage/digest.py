"""Digests and fingerprints: names for content, so that what is reused is what it claims to be."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

DIGEST_CHARACTERS = 32
#: Bytes of a file that are read at once.
_BLOCK = 1 << 20

#: What differs between two fingerprints, ours and theirs, a readable line each.
Differences = Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]


def digest_bytes(*parts: bytes | memoryview) -> str:
    """128 bits of SHA-256 over length-prefixed parts, as 32 hexadecimal characters."""
    state = hashlib.sha256()
    for part in parts:
        view = memoryview(part)
        state.update(view.nbytes.to_bytes(8, "little"))
        state.update(view)
    return state.hexdigest()[:DIGEST_CHARACTERS]


def digest_file(file: BinaryIO) -> str:
    """The same of the bytes of a file, which is read from its start, some at a time."""
    state = hashlib.sha256()
    state.update(file.seek(0, io.SEEK_END).to_bytes(8, "little"))
    file.seek(0)
    while block := file.read(_BLOCK):
        state.update(block)
    return state.hexdigest()[:DIGEST_CHARACTERS]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses NaN and infinity."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def digest(value: Any) -> str:
    """The digest of a JSON value; equal values have equal digests whatever their key order."""
    return digest_bytes(canonical_json(value).encode())


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, one readable line per leaf: ``fit.seed: 0, was 1``."""
    flat_ours, flat_theirs = dict(_leaves(ours)), dict(_leaves(theirs))
    return [
        f"{path}: {flat_ours.get(path, 'absent')}, was {flat_theirs.get(path, 'absent')}"
        for path in sorted(flat_ours.keys() | flat_theirs.keys())
        if flat_ours.get(path) != flat_theirs.get(path)
    ]


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, canonical_json(value)
