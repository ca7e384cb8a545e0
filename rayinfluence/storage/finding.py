"""Which files a folder or a glob names, on a disk or elsewhere: what cannot be listed is an error.

fsspec's walk, and what is built on it (glob, and find on a disk), passes over every folder that it
may not list, without a word; pathlib and glob do the same.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from rayinfluence.storage.retry import NO_SUCH_BUCKET, error_code

#: File systems whose find lists all keys under a prefix, page by page, and raises what goes wrong.
_FLAT = ("s3", "gs", "gcs")


class Entry(NamedTuple):
    """A path in a listing, and whether there are others below it."""

    path: str
    is_folder: bool


class Tree(Protocol):
    """Folders that can be listed; every method raises OSError where one cannot."""

    #: Whether `*` and `**` pass over names that begin with a dot, as a shell does.
    hides: bool

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder."""

    def below(self, folder: str, hidden: bool = True) -> Iterator[str]:
        """All files in a folder and in those below it; ``hidden`` ones may be left out."""

    def is_file(self, path: str) -> bool:
        """Whether there is a file at a path."""


class LocalTree:
    """A disk. Links are followed, and a folder that several lead to is read once."""

    hides = True

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder."""
        with os.scandir(folder) as found:
            return [Entry(entry.path, entry.is_dir()) for entry in found]

    def below(self, folder: str, hidden: bool = True) -> Iterator[str]:
        """All files in a folder and in those below it."""
        seen: set[tuple[int, int]] = {_identity(folder)}
        for root, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
            fresh = []
            for name in sorted(folders):
                identity = _identity(os.path.join(root, name))  # noqa: PTH118 - a string again
                if identity not in seen and (hidden or not name.startswith(".")):
                    seen.add(identity)
                    fresh.append(name)
            folders[:] = fresh
            for name in names:
                path = os.path.join(root, name)  # noqa: PTH118
                if (hidden or not name.startswith(".")) and self.is_file(path):
                    yield path

    def is_file(self, path: str) -> bool:
        """Whether it is a file, or a link to nothing: whoever opens that is told."""
        try:
            return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
        except NotADirectoryError:
            return False
        except FileNotFoundError:
            return os.path.islink(path)  # noqa: PTH114


class RemoteTree:
    """A file system of fsspec."""

    hides = False

    def __init__(self, files: Any, protocol: str) -> None:
        self._files = files
        self._flat = protocol in _FLAT

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder."""
        return [
            Entry(path, info["type"] == "directory")
            for info in self._files.ls(folder, detail=True)
            if (path := info["name"].rstrip("/")) != folder  # a key that ends in a slash
        ]

    def below(self, folder: str, hidden: bool = True) -> Iterator[str]:
        """All files in a folder and in those below it."""
        if self._flat:
            yield from self._files.find(folder)
            return
        for path, is_folder in self.entries(folder):
            yield from self.below(path) if is_folder else [path]

    def is_file(self, path: str) -> bool:
        """Whether there is a file at a path."""
        try:
            return bool(self._files.info(path)["type"] == "file")
        except FileNotFoundError as error:
            if error_code(error) == NO_SUCH_BUCKET:
                raise
            return False


def matching(tree: Tree, folder: str, pattern: Sequence[str]) -> Iterator[str]:
    """The files that a glob names, given in parts below a folder; ``**`` stands for any folders.

    Raises:
        OSError: a folder that the pattern leads into cannot be listed.
    """
    part, rest = pattern[0], pattern[1:]
    if part == "**":
        for path in tree.below(folder, hidden=not tree.hides):
            if _fits(path[len(folder) :].strip("/").split("/"), pattern, tree.hides):
                yield path
    elif not has_magic(part):
        path = f"{folder.rstrip('/')}/{part}" if folder else part
        if rest:
            yield from matching(tree, path, rest)
        elif tree.is_file(path):
            yield path
    else:
        try:
            entries = tree.entries(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            if error_code(error) == NO_SUCH_BUCKET:
                raise
            return  # as in a/*/b/*.jsonl, where not every folder has a b
        for path, is_folder in entries:
            if not _fits([path.rsplit("/", 1)[-1]], [part], tree.hides):
                continue
            if rest and is_folder:
                yield from matching(tree, path, rest)
            elif not rest and not is_folder and tree.is_file(path):
                yield path


def has_magic(text: str) -> bool:
    """Whether it is a pattern, and not a name."""
    return any(character in text for character in "*?[")


def _fits(names: Sequence[str], pattern: Sequence[str], hides: bool) -> bool:
    if not pattern:
        return not names
    part, rest = pattern[0], pattern[1:]
    if part == "**":
        # As in a shell, a last ** stands for the files as well.
        return (bool(names) and not rest) or any(
            _fits(names[start:], rest, hides) for start in range(len(names) + 1)
        )
    if not names or (hides and names[0].startswith(".") and not part.startswith(".")):
        return False
    return fnmatch.fnmatchcase(names[0], part) and _fits(names[1:], rest, hides)


def _identity(folder: str) -> tuple[int, int]:
    about = os.stat(folder)  # noqa: PTH116
    return about.st_dev, about.st_ino


def _raise(error: OSError) -> None:
    raise error
