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
#: Characters of a change that is shown whole, and entries that are named of another.
_MOST_SHOWN = 120
_NAMED = 2
_ABSENT = object()

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


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the digest of the rest of it, as ``seal``."""
    return {**body, "seal": digest(body)}


def refuse_broken_seal(body: Mapping[str, Any]) -> None:
    """See that a JSON object says what it said when it was sealed; earlier versions sealed none.

    Raises:
        ValueError: it says something else.
    """
    rest = {key: value for key, value in body.items() if key != "seal"}
    if "seal" in body and body["seal"] != digest(rest):
        raise ValueError("it is not what was written, by its digest")


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, one readable line per leaf: ``fit.seed: 0, was 1``.

    Of long lists it is how many they have, and the first that one of them lacks.
    """
    flat_ours, flat_theirs = dict(_leaves(ours)), dict(_leaves(theirs))
    return [
        f"{path}: {changed(flat_ours.get(path, _ABSENT), flat_theirs.get(path, _ABSENT))}"
        for path in sorted(flat_ours.keys() | flat_theirs.keys())
        if _shown(flat_ours.get(path, _ABSENT)) != _shown(flat_theirs.get(path, _ABSENT))
    ]


def changed(ours: Any, theirs: Any) -> str:
    """A value beside what it was; of long lists, what one of them lacks."""
    whole = f"{_shown(ours)}, was {_shown(theirs)}"
    if len(whole) <= _MOST_SHOWN or not (isinstance(ours, list) and isinstance(theirs, list)):
        return whole
    names, earlier = list(map(_name, ours)), list(map(_name, theirs))
    parts = [
        f"{word}: {_first(only)}"
        for word, only in (
            ("no longer", [name for name in dict.fromkeys(earlier) if name not in set(names)]),
            ("new", [name for name in dict.fromkeys(names) if name not in set(earlier)]),
        )
        if only
    ]
    if not parts:  # the same names: in another order, or there is more to them
        pairs = zip(ours, theirs, strict=False)
        one, other = next(((a, b) for a, b in pairs if a != b), ("more", "fewer"))
        parts = [f"first {_cut(_shown(one))}, was {_cut(_shown(other))}"]
    return f"{len(ours)} entries, was {len(theirs)}; {'; '.join(parts)}"


def _name(entry: Any) -> str:
    """What an entry of a list is called: a layer's shape begins with its name."""
    named = entry[0] if isinstance(entry, list) and entry else entry
    return named if isinstance(named, str) else _shown(named)


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(_cut, names[:_NAMED])) + more


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else canonical_json(value)


def _leaves(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
