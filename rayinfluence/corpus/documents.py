"""Reading documents: JSONL (plain or compressed) and Parquet, local or s3://, one at a time."""

from __future__ import annotations

import glob
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import DIGEST_CHARACTERS
from rayinfluence.storage.store import Store

JSONL_ENDINGS = (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2")
PARQUET_ENDINGS = (".parquet",)
_CODECS = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}


@dataclass(frozen=True)
class Document:
    """One document: its text, an id that is unique in its file, other columns as metadata."""

    document_id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BadDocument:
    """A row that is not a document, where it is and why."""

    place: str
    reason: str


def find_files(patterns: list[str], options: Callable[[str], Mapping[str, Any]]) -> list[Store]:
    """The files that paths, folders and globs name, as stores whose URL is the file.

    Raises:
        CorpusError: one of them names no file.
    """
    found: list[Store] = []
    for pattern in patterns:
        if "://" in pattern:
            filesystem, path = fsspec.core.url_to_fs(pattern, **options(pattern))
            protocol = pattern.split("://", 1)[0]
            if filesystem.isdir(path):
                names = [n for n in sorted(filesystem.find(path)) if _readable(n)]
            else:
                names = sorted(filesystem.glob(path))
            files = [f"{protocol}://{name}" for name in names]
        elif Path(pattern).is_dir():
            files = [str(p) for p in sorted(Path(pattern).rglob("*")) if _readable(p.name)]
        else:
            files = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns too
        if not files:
            raise CorpusError(
                f"corpus.documents: {pattern} names no file; give a .jsonl or .parquet file, a "
                "folder "
                "of them, or a glob."
            )
        found += [Store(file, options(file)) for file in files]
    return found


def file_digest(file: Store) -> str:
    """The digest of a file's bytes: a copy under another path is the same file."""
    state = hashlib.sha256()
    with file.open("") as stream:
        while block := stream.read(1 << 22):
            state.update(block)
    return state.hexdigest()[:DIGEST_CHARACTERS]


def read_documents(
    file: Store, text_column: str, id_column: str
) -> Iterator[Document | BadDocument]:
    """The documents of one file in order; rows that are none come as :class:`BadDocument`.

    Raises:
        CorpusError: the file is neither JSONL nor Parquet, or has no text column.
        StorageError: it cannot be read.
    """
    if file.url.endswith(PARQUET_ENDINGS):
        rows = _parquet_rows(file, text_column)
    elif file.url.endswith(JSONL_ENDINGS):
        rows = _jsonl_rows(file)
    else:
        raise CorpusError(
            f"{file.url}: documents are read from {', '.join(JSONL_ENDINGS + PARQUET_ENDINGS)} "
            "files."
        )
    for number, row in rows:
        place = f"{file.url}:{number}"
        if isinstance(row, str):
            yield BadDocument(place, row)
            continue
        text = row.pop(text_column, None)
        identity = row.pop(id_column, None)
        if not isinstance(text, str):
            yield BadDocument(place, f"{text_column!r} is not a string")
            continue
        metadata = {key: value for key, value in row.items() if value is not None}
        yield Document(
            f"{file.name}:{number}" if identity is None else str(identity), text, metadata
        )


def _jsonl_rows(file: Store) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with file.open("") as raw:
        codec = _CODECS.get(file.url.rsplit(".", 1)[-1])
        stream = io.BufferedReader(pa.CompressedInputStream(raw, codec)) if codec else raw
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                yield number, f"not JSON: {error}"
                continue
            yield number, row if isinstance(row, dict) else "not a JSON object"


def _parquet_rows(file: Store, text_column: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with file.open("") as stream:
        try:
            parquet = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise CorpusError(f"{file.url} is not a Parquet file: {error}") from error
        if text_column not in parquet.schema_arrow.names:
            raise CorpusError(
                f"{file.url} has no column {text_column!r}; it has "
                f"{', '.join(parquet.schema_arrow.names)}. Name yours under corpus.text_column."
            )
        number = 0
        for batch in parquet.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _readable(name: str) -> bool:
    return name.endswith(JSONL_ENDINGS + PARQUET_ENDINGS)
