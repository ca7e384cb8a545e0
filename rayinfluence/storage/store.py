"""A store: objects under one root, on a local disk or in object storage, written atomically.

Keys are relative, with forward slashes. A write is one PUT (object storage) or a temporary file
renamed into place (disk): a reader sees the whole object or none of it. Where a fault may
pass, object storage is asked again; see :mod:`rayinfluence.storage.retry`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from rayinfluence.addresses import why_no_path
from rayinfluence.errors import DamagedError, StorageError, brief
from rayinfluence.storage import local
from rayinfluence.storage.digest import refuse_broken_seal
from rayinfluence.storage.finding import (
    Entry,
    LocalTree,
    RemoteTree,
    Tree,
    find_all,
    is_folder,
    named,
)
from rayinfluence.storage.reading import READ_AHEAD, PatientFile
from rayinfluence.storage.retry import (
    CLIENT_CONFIG,
    NO_SUCH_BUCKET,
    advice,
    cause,
    error_code,
    http_status,
    retrying,
    watch,
)
from rayinfluence.text import without_credentials

T = TypeVar("T")

_PRECONDITION_FAILED = 412
_BEHIND_THE_END = 416


@dataclass(frozen=True)
class Listed:
    """One line of a listing.

    Attributes:
        size: in bytes.
        modified: when it was written, in epoch seconds, where that is known.
        tag: what the server calls this content of the object (its ETag); None on a disk.
    """

    size: int
    modified: float | None
    tag: str | None = None


@dataclass(frozen=True)
class Matches:
    """What an address names, by URL; of a folder, all that is in it and below."""

    entries: tuple[Entry, ...]
    of_folder: bool


@dataclass(frozen=True)
class Store:
    """Objects under one root.

    Args:
        url: a folder (``runs/demo``) or an fsspec URL (``s3://bucket/prefix``).
        options: keyword arguments of the fsspec file system (credentials, endpoint); see
            StorageConfig.
        called: what it is called among others, where the last part of its URL does not tell it
            apart.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    called: str = field(default="", compare=False)

    def __repr__(self) -> str:
        return f"Store(url={without_credentials(self.url)!r})"

    def __post_init__(self) -> None:
        url = self.url.removeprefix("file://")
        if "://" not in url:
            if why := why_no_path(url):
                raise StorageError(why)
            object.__setattr__(self, "url", str(Path(url).expanduser().absolute()))
        else:
            object.__setattr__(self, "url", self.url.rstrip("/"))

    def __truediv__(self, prefix: str) -> Store:
        return Store(f"{self.url}/{prefix}", self.options)

    @property
    def name(self) -> str:
        """What it is called, which by default is the last part of the URL."""
        return self.called or self.url.rsplit("/", 1)[-1]

    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            StorageError: there is no such object, or it cannot be read.
        """
        return bytes(self._do("read", key, lambda files, path: files.cat_file(path)))

    def read_all(self, keys: Sequence[str]) -> list[bytes]:
        """The bytes of many objects, in the order of their keys; a server is asked side by side.

        Raises:
            StorageError: one of them is not there, or cannot be read.
        """
        if self.is_local:
            return [self._read_local(key) for key in keys]
        paths = [self._path(key) for key in keys]
        found = self._do(
            "read", "", lambda files, _: files.cat_ranges(paths, None, None, on_error="return")
        )
        # What failed is read by itself, with patience, and named if it fails again.
        return [
            self.read(key) if isinstance(body, BaseException) else bytes(body)
            for key, body in zip(keys, found, strict=True)
        ]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """``length`` bytes of an object from byte ``start``; fewer where it ends before."""
        if not length:
            return b""

        def read(files: Any, path: str) -> bytes:
            try:
                return bytes(files.cat_file(path, start=start, end=start + length))
            except OSError as error:
                if http_status(error) == _BEHIND_THE_END:
                    return b""
                raise

        return self._do("read", key, read)

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """An object as a seekable binary file.

        Raises:
            StorageError: it is missing, or reading it fails in the middle.
        """
        if self.is_local:
            file = self._do("read", key, lambda files, path: files.open(path, "rb"))
        else:
            remote = self._do(
                "read", key, lambda files, path: files.open(path, "rb", block_size=READ_AHEAD)
            )
            patient = PatientFile(remote, lambda fetch: self._retry("read", key, fetch))
            file = io.BufferedReader(patient)
        try:
            yield cast(BinaryIO, file)
        except OSError as error:
            raise self._failed("read", key, error) from error
        finally:
            file.close()

    def write(self, key: str, body: bytes) -> None:
        """Write an object in one atomic step; an object of the same key is replaced."""
        if self.is_local:
            with self._errors("write", key):
                local.write(Path(self._path(key)), body)
        else:
            self._do("write", key, lambda files, path: files.pipe_file(path, body))

    @contextlib.contextmanager
    def spool(self, key: str) -> Iterator[BinaryIO]:
        """A file on a disk that becomes an object, in one atomic step, when the block ends well.

        For what is larger than a process should hold; it may be read again before the end.
        """
        try:
            if self.is_local:
                with (
                    local.replacing(Path(self._path(key))) as temporary,
                    temporary.open("x+b") as file,
                ):
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                return
            with tempfile.NamedTemporaryFile(prefix="rayinfluence-") as named:
                yield cast(BinaryIO, named)
                named.flush()
                self._do("write", key, lambda files, path: files.put_file(named.name, path))
        except OSError as error:
            raise self._failed("write", key, error) from error

    def create(self, key: str, body: bytes) -> bool:
        """Write an object in one atomic step, only if there is none of this key.

        Returns:
            Whether this call made it. Of several that race, exactly one is told True.

        Raises:
            StorageError: it cannot be written, for another reason than that it is there.
        """
        if self.is_local:
            with self._errors("write", key):
                return local.create(Path(self._path(key)), body)
        token = uuid.uuid4().hex

        def put(files: Any, path: str) -> bool:
            try:
                files.pipe_file(path, body, mode="create", Metadata={"creator": token})
            except Exception as error:
                if http_status(error) != _PRECONDITION_FAILED:
                    raise
                # A PUT whose answer is lost is sent again (by aiohttp, botocore and us), and then
                # meets the object that it made itself: that one has our token.
                return bool(files.metadata(path).get("creator") == token)
            return True

        return self._do("write", key, put)

    def list(self, prefix: str = "") -> dict[str, Listed]:
        """The objects under a prefix, by key, sorted; empty where there are none.

        Raises:
            StorageError: a part of them cannot be listed: who reads the list as a ledger would do
                again what is missing from it.
        """
        root = self._path(prefix) if prefix else self._path("").rstrip("/")
        # Where there is no such prefix the listing is empty; a bucket that is missing is an error.
        if self.is_local:
            found = self._do("list", prefix, lambda _, path: dict(local.listed(path)))
        else:
            found = self._do("list", prefix, lambda files, _: find_all(files, root))
        base = len(self._path("").rstrip("/")) + 1
        return {path[base:]: listed_of(info) for path, info in sorted(found.items())}

    def matches(self) -> Matches:
        """What this store's own URL names: a folder, a file, or a glob.

        Raises:
            StorageError: it cannot be listed, or a folder in it cannot, or a link leads to
                nothing: none is left out.
        """
        protocol = self.url.split("://", 1)[0] if "://" in self.url else ""

        def find(files: Any, path: str) -> tuple[list[Entry], bool]:
            tree: Tree = RemoteTree(files, protocol) if protocol else LocalTree()
            if is_folder(files, tree, path):
                return list(tree.below(path)), True
            return named(tree, path), False

        entries, of_folder = self._do("list", "", find)
        # By the parts of their paths: what is in a folder stays together.
        return Matches(
            tuple(
                Entry(f"{protocol}://{path}" if protocol else path, kind)
                for path, kind in sorted(entries, key=lambda entry: entry.path.split("/"))
            ),
            of_folder,
        )

    def info(self, key: str = "") -> Listed:
        """Size and time of one object."""
        found = self._do("look for", key, lambda files, path: files.info(path))
        return listed_of(found)

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key.

        Raises:
            StorageError: it cannot be told: what is there may be done again otherwise.
        """

        def look(files: Any, path: str) -> bool:
            try:
                files.info(path)
            except (FileNotFoundError, NotADirectoryError) as error:
                if error_code(error) == NO_SUCH_BUCKET:
                    raise
                if self.is_local:
                    LocalTree().refuse_lost(path)
                return False
            return True

        return self._do("look for", key, look)

    def delete(self, prefix: str = "") -> int:
        """Delete an object, or all objects under a prefix; returns how many there were."""
        keys = self.list(prefix)
        if not keys:
            return 0
        if self.is_local:
            self._do("delete", prefix, lambda _, path: local.delete(Path(path)))
            return len(keys)
        paths = [self._path(key) for key in keys]
        self._do("delete", prefix, lambda files, _: files.rm(paths))
        # s3fs keeps silent about the objects that the server refused to delete.
        if left := keys.keys() & self.list(prefix).keys():
            raise StorageError(
                f"{len(left)} of {len(keys)} objects under {self.url}/{prefix} were not deleted, "
                f"such as {min(left)}. Check that the bucket's policy allows s3:DeleteObject."
            )
        return len(keys)

    def sweep(self) -> int:
        """Delete what killed writers left half-written a day ago or longer; returns how many files.

        Only a disk has such files.
        """
        if not self.is_local:
            return 0
        return self._do("clean up", "", lambda _, path: local.sweep(Path(path)))

    def _read_local(self, key: str) -> bytes:
        with self._errors("read", key):
            return Path(self._path(key)).read_bytes()

    @property
    def _filesystem(self) -> Any:
        # fsspec caches instances by their arguments; listings must not be cached, other processes
        # write.
        protocol = self.url.split("://", 1)[0] if "://" in self.url else "file"
        options = dict(self.options)
        if protocol == "s3":
            options["config_kwargs"] = {**CLIENT_CONFIG, **options.get("config_kwargs", {})}
        try:
            files = fsspec.filesystem(protocol, use_listings_cache=False, **options)
        except (ImportError, ValueError, TypeError, OSError) as error:
            # Of those that fsspec knows some want arguments, or libraries of the system.
            raise StorageError(
                f"{self.url}: rayinfluence cannot open {protocol}:// addresses here "
                f"({brief(error)}); use a local folder or s3://, or gs:// with the extra gcs."
            ) from error
        if protocol == "s3":
            files.retries = 1  # see rayinfluence/storage/retry.py
            watch(files.s3)
        return files

    @property
    def is_local(self) -> bool:
        """Whether it is a folder or a file on a disk."""
        return "://" not in self.url

    def _path(self, key: str) -> str:
        root = self.url.split("://", 1)[1] if "://" in self.url else self.url
        return f"{root}/{key}" if key else root

    def _do(self, verb: str, key: str, operation: Callable[[Any, str], T]) -> T:
        """Do something with the file system and the path of a key, again after passing faults."""
        return self._retry(verb, key, lambda: operation(self._filesystem, self._path(key)))

    def _retry(self, verb: str, key: str, operation: Callable[[], T]) -> T:
        with self._errors(verb, key):
            return retrying(operation, self._place(key))

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            # botocore's exceptions share no base with OSError, and reach us unwrapped.
            raise self._failed(verb, key, error) from error

    def _place(self, key: str) -> str:
        return f"{self.url}/{key}" if key else self.url

    def _failed(self, verb: str, key: str, error: Exception) -> StorageError:
        # Below a file there is nothing either.
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        missing = absent and error_code(error) != NO_SUCH_BUCKET
        if missing and verb != "write":
            return StorageError(f"{self._place(key)} does not exist.")
        said = advice(error, self._is_anonymous)
        return StorageError(f"cannot {verb} {self._place(key)}: {cause(error)}. {said}")

    @property
    def _is_anonymous(self) -> bool:
        # In the words of s3fs, gcsfs and huggingface_hub.
        return bool(self.options.get("anon")) or self.options.get("token") in ("anon", False)


def write_table(
    store: Store, key: str, table: pa.Table, row_group_size: int | None = None
) -> bytes:
    """Write a table as one Parquet object, and return it; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", row_group_size=row_group_size, write_page_index=True
    )
    store.write(key, body := sink.getvalue())
    return body


def read_table(store: Store, key: str, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a Parquet object.

    Raises:
        StorageError: it is missing or not Parquet, or lacks a column.
    """
    with store.open(key) as file, reading_parquet(store, key):
        table = pq.ParquetFile(file).read(columns=list(columns), use_threads=False)
        return table.select(list(columns))


def parse_table(store: Store, key: str, body: bytes) -> pa.Table:
    """The table in the bytes of an object, which ``store`` and ``key`` name in errors.

    Raises:
        StorageError: it is not Parquet.
    """
    with reading_parquet(store, key):
        return pq.ParquetFile(pa.BufferReader(body)).read(use_threads=False)


@contextlib.contextmanager
def reading_parquet(store: Store, key: str) -> Iterator[None]:
    """Where pyarrow reads an object: what it raises says which, and what to do.

    All is decoded on the thread that asks. On pyarrow's own the bytes of Python's are let go of
    some time later, and a process that ends just then is aborted: they wait for an interpreter that
    is gone.
    """
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{store.url}/{key} is damaged or not Parquet: {error}. Delete it and run again."
        ) from error


def read_json(store: Store, key: str) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        DamagedError: it is not a JSON object, or not what was sealed.
        StorageError: it is missing or cannot be read.
    """
    try:
        value = json.loads(store.read(key))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        refuse_broken_seal(value)
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{store.url}/{key} is damaged: {error}. Delete it and run again."
        ) from error
    return value


def read_json_if_whole(store: Store, key: str) -> dict[str, Any] | None:
    """The same, or None where it is missing or damaged: for who would make it again then."""
    try:
        return read_json(store, key) if store.exists(key) else None
    except DamagedError:
        return None


def listed_of(info: Mapping[str, Any]) -> Listed:
    """What a file system of fsspec says of an object."""
    value = info.get("mtime", info.get("LastModified"))
    modified = value.timestamp() if isinstance(value, datetime) else value
    tag = info.get("ETag", info.get("etag"))
    return Listed(int(info["size"]), modified, None if tag is None else str(tag).strip('"'))
