"""Which files a folder or a glob names, on a disk or elsewhere: what cannot be listed is an error.

fsspec's walk, and what is built on it (glob, and find on a disk), passes over every folder that it
may not list, without a word; pathlib and glob do the same.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from rayinfluence.errors import StorageError
from rayinfluence.storage.retry import NO_SUCH_BUCKET, error_code

#: File systems whose find lists all keys under a prefix, page by page, and raises what goes wrong.
_FLAT = ("s3", "gs", "gcs")

#: What is said of a path where nothing is; the last of a link that leads to itself.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
#: One of some characters, or with the first mark of all others.
_CLASS = re.compile(r"\[(\^)?(!?\]?[^\]]*\])")

#: ``other`` is what no text can be read from: a pipe, a socket, a device.
Kind = Literal["file", "folder", "other"]


class Entry(NamedTuple):
    """A path that was found, and what is there."""

    path: str
    kind: Kind


class Tree(Protocol):
    """Folders that can be listed; every method raises OSError where one cannot."""

    #: Whether `*` and `**` pass over names that begin with a dot, as a shell does.
    hides: bool

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder."""

    def below(self, folder: str) -> Iterator[Entry]:
        """All that is in a folder and in those below it.

        On a disk a hidden folder is not entered, and stands for what is in it; of the others
        only the contents come.
        """

    def kind(self, path: str) -> Kind | None:
        """What is at a path, or None."""

    def refuse_lost(self, path: str) -> None:
        """Where nothing is at a path, see that no link has lost it.

        Raises:
            StorageError: the path, or a folder that it is in, is a link to nothing.
        """


class LocalTree:
    """A disk. Links are followed, and a folder that several lead to is read once."""

    hides = True

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder."""
        with os.scandir(folder) as found:
            return [Entry(entry.path, _kind(entry)) for entry in found]

    def below(self, folder: str) -> Iterator[Entry]:
        """All that is in a folder and in those below it."""
        seen: set[tuple[int, int]] = {_identity(folder)}
        for root, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
            fresh = []
            for name in sorted(folders):
                path = os.path.join(root, name)  # noqa: PTH118 - a string again
                if name.startswith("."):
                    yield Entry(path, "folder")
                elif (identity := _identity(path)) not in seen:
                    seen.add(identity)
                    fresh.append(name)
            folders[:] = fresh
            for name in names:
                path = os.path.join(root, name)  # noqa: PTH118
                if name.startswith("."):
                    yield Entry(path, "other")  # the lock of an editor is a link to nothing
                elif kind := self.kind(path):
                    yield Entry(path, kind)

    def kind(self, path: str) -> Kind | None:
        """What is at a path, or None."""
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116
        except OSError as error:
            if error.errno not in _NOWHERE:
                raise
            self.refuse_lost(path)
            return None
        if stat.S_ISDIR(mode):
            return "folder"
        return "file" if stat.S_ISREG(mode) else "other"

    def refuse_lost(self, path: str) -> None:
        """Where nothing is at a path, see that no link has lost it."""
        while path.strip("/"):
            if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114
                raise StorageError(
                    f"{path} is a link to {os.readlink(path)}, where nothing is. Put that back, "  # noqa: PTH115
                    "or delete the link."
                )
            path = path.rpartition("/")[0]


class RemoteTree:
    """A file system of fsspec."""

    hides = False

    def __init__(self, files: Any, protocol: str) -> None:
        self._files = files
        self._flat = protocol in _FLAT

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder."""
        return [
            Entry(path, "folder" if info["type"] == "directory" else "file")
            for info in self._files.ls(folder, detail=True)
            if (path := info["name"].rstrip("/")) != folder  # a key that ends in a slash
        ]

    def below(self, folder: str) -> Iterator[Entry]:
        """All that is in a folder and in those below it."""
        if self._flat:
            yield from (Entry(path, "file") for path in self._files.find(folder))
            return
        for entry in self.entries(folder):
            if entry.kind == "folder":
                yield from self.below(entry.path)
            else:
                yield entry

    def kind(self, path: str) -> Kind | None:
        """What is at a path, or None."""
        try:
            return "file" if self._files.info(path)["type"] == "file" else "folder"
        except FileNotFoundError as error:
            if error_code(error) == NO_SUCH_BUCKET:
                raise
            return None

    def refuse_lost(self, path: str) -> None:
        """There are no links."""


def is_folder(files: Any, tree: Tree, path: str) -> bool:
    """Whether a folder is at a path of an fsspec file system.

    Raises:
        OSError: it may not be listed, and no object has this name.
    """
    try:
        return bool(files.isdir(path))
    except PermissionError:
        # A bucket may be one to read from and not to list: objects have names there.
        if tree.kind(path) != "file":
            raise
        return False


def find_all(files: Any, root: str) -> dict[str, dict[str, Any]]:
    """All objects of an fsspec file system under a path, with what is known of each.

    Raises:
        OSError: a part of them cannot be listed.
    """
    protocols = (files.protocol,) if isinstance(files.protocol, str) else files.protocol
    if set(protocols) & set(_FLAT):
        return dict(files.find(root, detail=True))
    try:
        about = files.info(root)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return dict(_below(files, about))


def _below(files: Any, about: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    place = about["name"].rstrip("/")
    if about["type"] != "directory":
        yield place, about
        return
    for one in files.ls(place, detail=True):
        if one["name"].rstrip("/") != place:
            yield from _below(files, one)


def named(tree: Tree, path: str) -> list[Entry]:
    """What a name or a glob stands for, that is no folder by this name.

    A name that has brackets is a name where it is one; of a name with an asterisk or a question
    mark a shell finds the others as well.

    Raises:
        OSError: as :func:`matching` says.
        StorageError: the same.
    """
    kind = tree.kind(path)
    found = {path: Entry(path, kind)} if kind else {}
    if "*" in path or "?" in path or (has_magic(path) and not found):
        root = path.startswith("/")
        parts = path.lstrip("/").split("/")
        found |= {entry.path: entry for entry in matching(tree, "/" * root, parts)}
    return list(found.values())


def matching(tree: Tree, folder: str, pattern: Sequence[str]) -> Iterator[Entry]:
    """What a glob names, given in parts below a folder; ``**`` stands for any folders.

    Raises:
        OSError: a folder that the pattern leads into cannot be listed.
        StorageError: a link that the pattern leads through leads to nothing.
    """
    part, rest = pattern[0], pattern[1:]
    if part == "**":
        for entry in tree.below(folder):
            names = entry.path[len(folder) :].strip("/").split("/")
            hidden = tree.hides and any(name.startswith(".") for name in names)
            if not hidden and fits(names, pattern, tree.hides):
                yield entry
    elif not has_magic(part):
        path = f"{folder.rstrip('/')}/{part}" if folder else part
        if rest:
            yield from matching(tree, path, rest)
        elif kind := tree.kind(path):
            yield Entry(path, kind)
    else:
        try:
            entries = tree.entries(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            if error_code(error) == NO_SUCH_BUCKET:
                raise
            tree.refuse_lost(folder)
            return  # as in a/*/b/*.jsonl, where not every folder has a b
        for entry in entries:
            if not fits([entry.path.rsplit("/", 1)[-1]], [part], tree.hides):
                continue
            if entry.kind == "other":
                tree.refuse_lost(entry.path)
            if rest and entry.kind == "folder":
                yield from matching(tree, entry.path, rest)
            elif not rest:
                yield entry


def has_magic(text: str) -> bool:
    """Whether it is a pattern, and not a name."""
    return any(character in text for character in "*?[")


def fits(names: Sequence[str], pattern: Sequence[str], hides: bool) -> bool:
    """Whether a path, in parts, is one that a glob stands for."""
    if not pattern:
        return not names
    part, rest = pattern[0], pattern[1:]
    if part == "**":
        # As in a shell, a last ** stands for the files as well.
        return (bool(names) and not rest) or any(
            fits(names[start:], rest, hides) for start in range(len(names) + 1)
        )
    if not names or (hides and names[0].startswith(".") and not part.startswith(".")):
        return False
    # In bash, zsh and ksh `[^...]` is `[!...]`, which alone fnmatch knows.
    part = _CLASS.sub(lambda one: f"[!{one[2]}" if one[1] else one[0], part)
    return fnmatch.fnmatchcase(names[0], part) and fits(names[1:], rest, hides)


def _kind(entry: os.DirEntry[str]) -> Kind:
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "other"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "other"


def _identity(folder: str) -> tuple[int, int]:
    about = os.stat(folder)  # noqa: PTH116
    return about.st_dev, about.st_ino


def _raise(error: OSError) -> None:
    raise error
