"""Which files `corpus.documents` names, and what lies among them that is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import bracex

from rayinfluence.corpus.documents import known
from rayinfluence.corpus.paths import tails
from rayinfluence.corpus.sources import endings, find_source
from rayinfluence.corpus.sources.compression import parted
from rayinfluence.corpus.sources.source import Source
from rayinfluence.corpus.token_files import is_index, is_token_file
from rayinfluence.errors import CorpusError, StorageError
from rayinfluence.storage.store import Matches, Store

#: What frameworks and systems leave beside their data, besides names that begin with a dot.
_BOOKKEEPING_ENDINGS = (".crc", "_$folder$")
_BOOKKEEPING_NAMES = ("thumbs.db", "desktop.ini")
#: The same, of names that documents might have: of `datasets` on a disk and on a hub.
_OF_DATASETS = re.compile(
    r"(dataset_infos?|dataset_dict|state)\.json|(cache-[^/]*|indices)\.arrow", re.IGNORECASE
)
#: Addresses that braces may stand for.
_ALTERNATIVES = 10_000
#: Examples of names, of each kind that is left out.
_NAMED = 5

_OTHER = "of other kinds"
_HIDDEN = "hidden or bookkeeping"
_FOLDERS = "folders that a glob names"
_EMPTY = "empty"
_AGAIN = "read by another address"
_TEXTS = "texts beside data"
_INDICES = "indices, read with their .bin"
_NO_FILES = "pipes, sockets or devices"


@dataclass(frozen=True)
class LeftOut:
    """How many were left out for one reason, and the first of their names."""

    count: int
    names: list[str]


@dataclass(frozen=True)
class Found:
    """What addresses of documents name: files to read, and what is left out, by reason."""

    files: list[Store] = field(default_factory=list)
    left_out: dict[str, LeftOut] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """What is left out, in words."""
        return _described(self.left_out)


def find_files(
    patterns: list[str], options: Callable[[str], Mapping[str, Any]], tokens: bool = False
) -> Found:
    """The files that paths, folders and globs name, as stores whose URL is the file.

    In a folder, files of other kinds are left out, and counted, and so are texts that lie beside
    data; a path or a glob has to name files that can be read. A file whose name says nothing is
    looked into.

    Args:
        patterns: paths, folders and globs.
        options: of the store of each.
        tokens: whether documents are token ids, so that files of those are among them.

    Raises:
        CorpusError: one of them names no file that can be read, a file of another kind, a link
            to nothing, or leads into a folder that cannot be read.
        StorageError: an address cannot be listed.
    """
    found: dict[str, Store] = {}
    places: dict[str, str] = {}
    others: dict[str, tuple[str, str]] = {}
    for pattern in chain.from_iterable(map(_alternatives, patterns)):
        place = Store(pattern, options(pattern))
        try:
            matches = place.matches()
        except StorageError as error:
            kind = CorpusError if place.is_local else StorageError
            raise kind(
                f"corpus.documents: {error} Documents are not left out in silence."
            ) from error
        files, left = _sorted_out(place, matches, tokens)
        if not files:
            raise CorpusError(f"corpus.documents: {_nothing(pattern, left)}")
        # Patterns may overlap, and links lead to the same: a file is read once.
        for url in files:
            file = Store(url, options(url))
            first = places.setdefault(os.path.realpath(url) if file.is_local else url, url)
            if first == url:
                found[url] = file
            else:
                others[url] = _AGAIN, url
        others |= left
    # Of documents without an id the name of their file is one, and those of partitions are alike.
    named = zip(found.values(), tails(list(found)), strict=True)
    return Found(
        [replace(file, called=name) for file, name in named],
        _counted({url: o for url, o in others.items() if url not in found}),
    )


def _alternatives(pattern: str) -> list[str]:
    """What a shell makes of braces: `{a,b}` and `{1..3}`; a name that has some is a name."""
    if "{" not in pattern or ("://" not in pattern and Path(pattern).exists()):
        return [pattern]
    try:
        found: list[str] = bracex.expand(pattern, limit=_ALTERNATIVES)
    except bracex.ExpansionLimitException as error:
        raise CorpusError(
            f"corpus.documents: the braces of {pattern} stand for more than {_ALTERNATIVES:,} "
            "addresses; write a glob."
        ) from error
    return found


def _sorted_out(
    place: Store, matches: Matches, tokens: bool
) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """The URLs to read, and for the others why they are left out and what to call them."""
    files: dict[str, Source | None] = {}
    left = {}
    names = {}
    urls = {url for url, _ in matches.entries}
    for url, kind in matches.entries:
        name = url.rsplit("/", 1)[-1]
        if matches.of_folder:
            name = url.removeprefix(place.url).strip("/")
            parts = name.split("/")
            # A hidden folder counts once, whatever is in it.
            hidden = next((i for i in range(len(parts)) if _is_hidden(parts, i)), None)
            if hidden is not None:
                name = "/".join(parts[: hidden + 1])
                left[f"{place.url}/{name}"] = _HIDDEN, name
                continue
        names[url] = name
        last = name.rsplit("/", 1)[-1]
        if kind != "file":
            left[url] = _FOLDERS if kind == "folder" else _NO_FILES, name
        elif _OF_DATASETS.fullmatch(last):
            left[url] = _HIDDEN, name
        elif source := find_source(name):
            files[url] = source
        elif _bookkeeping(last):
            left[url] = _HIDDEN, name
        elif tokens and is_index(url, urls):
            left[url] = _INDICES, name
        elif tokens and is_token_file(last, matches.of_folder):
            files[url] = None
        elif matches.of_folder and "." in parted(last)[0]:
            left[url] = _OTHER, name
        else:
            source, why_not = _looked_into(Store(url, place.options), matches.of_folder)
            if why_not:
                left[url] = why_not, name
            else:
                files[url] = source
    texts = [url for url, source in files.items() if source and source.is_text]
    if matches.of_folder and len(texts) < len(files):
        # What is written about data lies beside it.
        left |= {url: (_TEXTS, names[url]) for url in texts}
    return [url for url in files if url not in left], left


def _looked_into(file: Store, of_folder: bool) -> tuple[Source | None, str | None]:
    """The format of a file whose name says nothing, and why it is not read if it is not.

    One in a folder is left out where it holds nothing, or nothing that is read. One that is damaged
    is read: it is a bad file, which is told then.
    """
    try:
        source = known(file)
    except EOFError:
        return None, None
    except CorpusError:
        if of_folder:
            return None, _OTHER
        raise
    return source, _EMPTY if of_folder and source is None else None


def _counted(others: Mapping[str, tuple[str, str]]) -> dict[str, LeftOut]:
    names: dict[str, list[str]] = {}
    for reason, name in others.values():
        names.setdefault(reason, []).append(name)
    return {reason: LeftOut(len(of), of[:_NAMED]) for reason, of in sorted(names.items())}


def _described(left_out: Mapping[str, LeftOut]) -> str:
    return ", ".join(
        f"{left.count:,} {reason} ({', '.join(left.names)}"
        + (", ..." if left.count > len(left.names) else "")
        + ")"
        for reason, left in left_out.items()
    )


def _nothing(pattern: str, others: Mapping[str, tuple[str, str]]) -> str:
    """What to say of an address with no file to read."""
    if not others:
        return (
            f"{pattern} names no file; give one, a folder or a glob. Documents are read from "
            f"{endings()} files."
        )
    return (
        f"{pattern} names no file that can be read: there are {_described(_counted(others))}. "
        f"Documents are read from {endings()} files: turn others into such, or name a file "
        "itself, which is looked into then; and name folders without a glob."
    )


def _bookkeeping(name: str) -> bool:
    return (
        name.startswith((".", "_"))
        or name.lower().endswith(_BOOKKEEPING_ENDINGS)
        or name.lower() in _BOOKKEEPING_NAMES
    )


def _is_hidden(parts: list[str], place: int) -> bool:
    """Whether a part of a path hides what is in it: as what Spark and Delta keep in folders does.

    A partition by a column whose name begins so is none of these.
    """
    part = parts[place]
    is_folder = place + 1 < len(parts)
    return part.startswith(".") or (is_folder and part.startswith("_") and "=" not in part)
