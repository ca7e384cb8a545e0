"""A store: objects under one root, on a local disk or in object storage, written atomically.

Keys are relative, with forward slashes. A write is one PUT (object storage) or a temporary file
renamed into place (disk): a reader sees the whole object or none of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from rayinfluence.errors import DamagedError, StorageError


@dataclass(frozen=True)
class Listed:
    """One line of a listing: size in bytes, and when it was written (epoch seconds or None)."""

    size: int
    modified: float | None


@dataclass(frozen=True)
class Store:
    """Objects under one root.

    Args:
        url: a folder (``runs/demo``) or an fsspec URL (``s3://bucket/prefix``).
        options: keyword arguments of the fsspec file system (credentials, endpoint); see
            StorageConfig.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        url = self.url.removeprefix("file://")
        if "://" not in url:
            object.__setattr__(self, "url", str(Path(url).expanduser().absolute()))
        else:
            object.__setattr__(self, "url", self.url.rstrip("/"))

    def __truediv__(self, prefix: str) -> Store:
        return Store(f"{self.url}/{prefix}", self.options)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]

    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            StorageError: there is no such object, or it cannot be read.
        """
        with self._errors("read", key), self.open(key) as file:
            return file.read()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """``length`` bytes of an object from byte ``start``."""
        with self._errors("read", key), self.open(key) as file:
            file.seek(start)
            return file.read(length)

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        """An object as a seekable binary file.

        Raises:
            StorageError: it is missing, or reading it fails in the middle.
        """
        with self._errors("read", key):
            file = self._filesystem.open(self._path(key), "rb")
        try:
            yield cast(BinaryIO, file)
        except OSError as error:
            raise self._failed("read", key, error) from error
        finally:
            file.close()

    def write(self, key: str, body: bytes) -> None:
        """Write an object in one atomic step; an object of the same key is replaced."""
        with self._errors("write", key):
            if self._is_local:
                _write_local(Path(self._path(key)), body)
            else:
                self._filesystem.pipe_file(self._path(key), body)

    def list(self, prefix: str = "") -> dict[str, Listed]:
        """The objects under a prefix, by key, sorted; empty where there are none."""
        root = self._path(prefix) if prefix else self._path("").rstrip("/")
        with self._errors("list", prefix):
            try:
                found = self._filesystem.find(root, detail=True)
            except FileNotFoundError:
                found = {}
        base = len(self._path("").rstrip("/")) + 1
        return {
            path[base:]: Listed(int(info["size"]), _modified(info))
            for path, info in sorted(found.items())
            if not path.endswith(".part")
        }

    def info(self, key: str = "") -> Listed:
        """Size and time of one object."""
        with self._errors("look for", key):
            found = self._filesystem.info(self._path(key))
        return Listed(int(found["size"]), _modified(found))

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        with self._errors("look for", key):
            return bool(self._filesystem.exists(self._path(key)))

    def delete(self, prefix: str = "") -> int:
        """Delete an object, or all objects under a prefix; returns how many there were."""
        keys = self.list(prefix)
        if keys:
            with self._errors("delete", prefix):
                if self._is_local:
                    self._filesystem.rm(self._path(prefix).rstrip("/"), recursive=True)
                else:
                    self._filesystem.rm([self._path(key) for key in keys])
        return len(keys)

    @property
    def _filesystem(self) -> Any:
        # fsspec caches instances by their arguments; listings must not be cached, other processes
        # write.
        protocol = self.url.split("://", 1)[0] if "://" in self.url else "file"
        try:
            return fsspec.filesystem(protocol, use_listings_cache=False, **self.options)
        except (ImportError, ValueError) as error:
            raise StorageError(
                f"{self.url}: rayinfluence cannot open {protocol}:// addresses here ({error}); "
                "use a local folder or s3://, or gs:// with the extra gcs."
            ) from error

    @property
    def _is_local(self) -> bool:
        return "://" not in self.url

    def _path(self, key: str) -> str:
        root = self.url.split("://", 1)[1] if "://" in self.url else self.url
        return f"{root}/{key}" if key else root

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            # botocore's exceptions share no base with OSError, and reach us unwrapped.
            raise self._failed(verb, key, error) from error

    def _failed(self, verb: str, key: str, error: Exception) -> StorageError:
        place = f"{self.url}/{key}" if key else self.url
        if isinstance(error, FileNotFoundError) and verb != "write":
            return StorageError(f"{place} does not exist.")
        return StorageError(
            f"cannot {verb} {place}: {type(error).__name__}: {error}. "
            "Check the address, the credentials and the free space."
        )


def write_table(store: Store, key: str, table: pa.Table, row_group_size: int | None = None) -> None:
    """Write a table as one Parquet object; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", row_group_size=row_group_size, write_page_index=True
    )
    store.write(key, sink.getvalue())


def read_table(store: Store, key: str) -> pa.Table:
    """Read one Parquet object whole.

    Raises:
        StorageError: it is missing or not Parquet.
    """
    try:
        return pq.read_table(pa.BufferReader(store.read(key)))
    except (pa.ArrowException, OSError) as error:
        raise StorageError(
            f"{store.url}/{key} is damaged or not Parquet: {error}. Delete it and run again."
        ) from error


def read_json(store: Store, key: str) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        DamagedError: it is not a JSON object.
        StorageError: it is missing or cannot be read.
    """
    try:
        value = json.loads(store.read(key))
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{store.url}/{key} is damaged: {error}. Delete it and run again."
        ) from error
    return value


def _write_local(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, whose files nobody but their owner may read.
    temporary = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        with temporary.open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _modified(info: Mapping[str, Any]) -> float | None:
    value = info.get("mtime", info.get("LastModified"))
    return value.timestamp() if isinstance(value, datetime) else value
