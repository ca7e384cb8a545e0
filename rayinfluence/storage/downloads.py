"""Files that other tools wrote, and what mishaps of a download leave in their place.

What is wrong with one is a clause without its name: ``is empty; download it again``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rayinfluence.errors import StorageError
from rayinfluence.storage.store import Store

#: How files begin that stand for others, and what fetches those.
_POINTERS = {
    b"version https://git-lfs": ("git-lfs", "`git lfs pull`"),
    b"# xet version": ("git-xet", "`git lfs pull` with git-xet installed"),
    b"/annex/objects/": ("git-annex", "`git annex get .`"),
}
_AGAIN = "download it again"
#: Enough of a file to know it by.
_BEGINNING = 64
#: Of a safetensors file, the bytes that say how long its header is, and the longest that is read.
_LENGTH, _LONGEST = 8, 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """What the header of a safetensors file says of one tensor: ``F32``, ``(2, 3)``."""

    dtype: str
    shape: tuple[int, ...]


class Unusable(ValueError):
    """A file is not what its name says; the message is the clause."""


def why_a_pointer(begins: bytes, size: str = "") -> str | None:
    """That a file which begins so stands for another, as a clause, or None where it does not."""
    for beginning, (tool, command) in _POINTERS.items():
        if begins.startswith(beginning):
            return (
                f"is a pointer of {tool}{size} and not the file itself; run {command} where it was "
                f"cloned, or {_AGAIN}"
            )
    return None


def refuse_stand_in(folder: Store, name: str) -> bytes:
    """See that a file is itself, and return how it begins.

    Raises:
        Unusable: it is not there, is empty, a pointer to the file, or a page of a web server.
    """
    try:
        begins = folder.read_range(name, 0, _BEGINNING)
    except StorageError as error:
        if folder.exists(name):
            raise
        raise Unusable(f"is missing; {_AGAIN}") from error
    if not begins:
        raise Unusable(f"is empty; {_AGAIN}")
    if why := why_a_pointer(begins, f" ({folder.info(name).size} bytes)"):
        raise Unusable(why)
    if begins.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise Unusable(f"is a page of a web server, perhaps about an error; {_AGAIN}")
    return begins


def refuse_cut_json(folder: Store, name: str) -> None:
    """See that a file may be a whole JSON object, by how it begins and ends.

    Raises:
        Unusable: it is cut short, or something else.
    """
    begins, size = refuse_stand_in(folder, name), folder.info(name).size
    if not begins.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        raise Unusable(f"is damaged, as it holds no JSON object; {_AGAIN}")
    ends = folder.read_range(name, max(0, size - _BEGINNING), _BEGINNING)
    if not ends.rstrip().endswith(b"}"):
        raise Unusable(f"is cut short, at {size:,} bytes; {_AGAIN}")


def read_json_object(folder: Store, name: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        Unusable: it is something else.
    """
    refuse_stand_in(folder, name)
    try:
        value = json.loads(folder.read(name))
    except (ValueError, RecursionError) as error:
        raise Unusable(f"is damaged, as it is not JSON ({error}); {_AGAIN}") from error
    if not isinstance(value, dict):
        raise Unusable(f"is damaged, as it holds no JSON object; {_AGAIN}")
    return value


def read_header(folder: Store, name: str) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file that is whole, by name; no number of them is read.

    Raises:
        Unusable: it is cut short, or no such file.
    """
    begins = refuse_stand_in(folder, name)
    size = folder.info(name).size
    length = int.from_bytes(begins[:_LENGTH], "little")
    if size > _LENGTH and (begins[_LENGTH : _LENGTH + 1] != b"{" or length > _LONGEST):
        raise Unusable(f"is no safetensors file (it begins with {begins[:16]!r}); {_AGAIN}")
    if size < _LENGTH + length:
        raise Unusable(f"is cut short within its header, at {size:,} bytes; {_AGAIN}")
    try:
        header = json.loads(folder.read_range(name, _LENGTH, length))
        tensors = {
            key: (StoredTensor(str(about["dtype"]), tuple(about["shape"])), about["data_offsets"])
            for key, about in header.items()
            if key != "__metadata__"
        }
        needed = _LENGTH + length + max((int(ends[1]) for _, ends in tensors.values()), default=0)
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise Unusable(f"has a damaged header ({type(error).__name__}); {_AGAIN}") from error
    if size < needed:
        raise Unusable(f"is cut short: it has {size:,} of its {needed:,} bytes; {_AGAIN}")
    if size > needed:
        raise Unusable(
            f"has {size:,} bytes where its header describes {needed:,}, so it is damaged; {_AGAIN}"
        )
    return {key: tensor for key, (tensor, _) in tensors.items()}
