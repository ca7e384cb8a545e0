"""Rolled up fragments: the log and its fragments in few objects instead of many.

An object ``rolled/<first>-<end>-<digest>.json`` says again what the entries from the first to
before the end say, with their fragments. It is derived: what is damaged or missing is read from the
log and the fragments, one by one.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rayinfluence.corpus.fragments import Fragment, read_fragments
from rayinfluence.corpus.ordinals import Entry, length_of_log, read_entries
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.store import Store

ROLLED = "rolled"
#: Files of one object at most: it is made and read in one piece.
MOST_FILES = 4096
#: Fewer loose files than these are left alone.
FEWEST_FILES = 64
_KEY = re.compile(rf"{ROLLED}/(\d{{8}})-(\d{{8}})-([0-9a-f]{{32}})\.json")


@dataclass(frozen=True)
class Logbook:
    """A log with its fragments, in the order of the ordinals."""

    entries: list[Entry]
    fragments: list[Fragment]
    #: How many of the fragments were read one by one.
    loose: int


@dataclass(frozen=True)
class _Piece:
    end: int
    key: str
    digest: str


def read_logbook(store: Store) -> Logbook:
    """What a corpus consists of: all that its log names, and nothing else.

    Raises:
        CorpusError: the log or a fragment is damaged.
        StorageError: an object is missing or cannot be read.
    """
    # In this order: what is rolled up is in the log.
    pieces = _chain(store)
    length = length_of_log(store)
    entries: list[Entry] = []
    fragments: list[Fragment] = []
    with _no_collector():
        for piece, body in zip(pieces, store.read_all([p.key for p in pieces]), strict=True):
            if piece.end > length or digest_bytes(body) != piece.digest:
                break
            parsed = json.loads(body)
            entries += map(Entry.parse, parsed["entries"])
            fragments += map(Fragment.parse, parsed["fragments"])
        loose = read_entries(store, len(entries), length)
        keys = [file.fragment for entry in loose for file in entry.files]
        fragments += read_fragments(store, keys)
    return Logbook([*entries, *loose], fragments, len(keys))


def roll_up(store: Store) -> None:
    """Roll up what is loose, if it is enough to be worth an object."""
    start = max((piece.end for piece in _chain(store)), default=0)
    entries = read_entries(store, start, length_of_log(store))
    if sum(len(entry.files) for entry in entries) < FEWEST_FILES:
        return
    for group in _groups(entries):
        keys = [file.fragment for entry in group for file in entry.files]
        content = {
            "entries": [entry.body for entry in group],
            "fragments": [fragment.body for fragment in read_fragments(store, keys)],
        }
        body = json.dumps(content, ensure_ascii=False).encode()
        end = start + len(group)
        store.write(f"{ROLLED}/{start:08d}-{end:08d}-{digest_bytes(body)}.json", body)
        start = end


@contextlib.contextmanager
def _no_collector() -> Iterator[None]:
    """The collector of cycles looks at all that is read, again and again: it takes most time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _chain(store: Store) -> list[_Piece]:
    """The objects that cover the log from its beginning, each from where the last ends."""
    longest: dict[int, _Piece] = {}
    for key in store.list(ROLLED):
        if match := _KEY.fullmatch(key):
            first, piece = int(match[1]), _Piece(int(match[2]), key, match[3])
            if first not in longest or piece.end > longest[first].end:
                longest[first] = piece
    return list(_followed(longest))


def _followed(longest: Mapping[int, _Piece]) -> Iterator[_Piece]:
    end = 0
    while end in longest and longest[end].end > end:
        yield longest[end]
        end = longest[end].end


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    n_files = 0
    for entry in entries:
        if group and n_files + len(entry.files) > MOST_FILES:
            yield group
            group, n_files = [], 0
        group.append(entry)
        n_files += len(entry.files)
    yield group
