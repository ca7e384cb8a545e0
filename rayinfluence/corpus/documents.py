"""Reading documents: JSONL (plain or compressed) and Parquet, local or s3://, one at a time."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayinfluence.corpus.files import PARQUET_ENDINGS, refuse_other_kinds
from rayinfluence.corpus.lines import other_encoding, parsed
from rayinfluence.corpus.magic import BEGINNING, kind_of, why_not_documents
from rayinfluence.errors import CorpusError
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store

#: What a line is looked for in, at a time.
_BUFFER = 2**20
#: Keys of a file in a message.
_NAMED = 20
_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


@dataclass(frozen=True)
class Document:
    """One document: its text, an id that is unique in its file, other columns as metadata.

    ``row`` is its line or row in the file, from 1.
    """

    document_id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    row: int | None = None


@dataclass(frozen=True)
class BadDocument:
    """A row that is not a document, where it is and why."""

    place: str
    reason: str


def file_digest(file: Store) -> str:
    """The digest of a file's bytes: a copy under another path is the same file."""
    with file.open("") as stream:
        return DigestedFile(stream).digest()


def refuse_other_content(file: Store) -> None:
    """See that a file is what its name says, and JSONL in UTF-8, by its first bytes.

    One in object storage is judged when it is read, and so is the encoding of a compressed one.

    Raises:
        CorpusError: it is not.
        StorageError: it cannot be read.
    """
    if file.is_local:
        _refuse(file, file.read_range("", 0, BEGINNING))


def _refuse(file: Store, begins: bytes) -> None:
    ending = _ending(file)
    said = why_not_documents(begins, ending)
    if said is None and ending in (".jsonl", ".ndjson"):
        said = other_encoding(begins)
    if said:
        raise CorpusError(f"{file.url} {said}")


def _ending(file: Store) -> str:
    """The last part of a file's name: what it is, or what it is compressed by."""
    return f".{file.url.lower().rpartition('.')[2]}"


def read_documents(
    file: Store, text_column: str, id_column: str, source: DigestedFile | None = None
) -> Generator[Document | BadDocument, None, None]:
    """The documents of one file in order; rows that are none come as :class:`BadDocument`.

    Args:
        file: the documents.
        text_column: the column or key of the text.
        id_column: of what names a document.
        source: the file, where it is open already.

    Raises:
        CorpusError: the file is neither JSONL nor Parquet, or has no text column.
        StorageError: it cannot be read.
    """
    refuse_other_kinds(file.url)
    if file.url.lower().endswith(PARQUET_ENDINGS):
        rows = _parquet_rows(file, text_column, source)
    else:
        rows = _with_text(file, text_column, _jsonl_rows(file, source))
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
            f"{file.name}:{number}" if identity is None else str(identity), text, metadata, number
        )


def _jsonl_rows(
    file: Store, source: DigestedFile | None
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with _opened(file, source) as raw, _to_the_end(file):
        codec = _CODECS.get(_ending(file))
        stream = io.BufferedReader(pa.CompressedInputStream(raw, codec) if codec else raw, _BUFFER)
        begun = False
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            if not begun:
                _refuse_first(file, line, codec)
            begun = True
            try:
                row = parsed(line, number)
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON: {error}"
                continue
            yield number, row if isinstance(row, dict) else "not a JSON object"


def _refuse_first(file: Store, line: bytes, codec: str | None) -> None:
    """Refuse a file whose first line is none of JSON in UTF-8."""
    if (kind := kind_of(line)) and codec:
        raise CorpusError(
            f"{file.url} holds {kind.name} within {codec}: take one of them away, and let its name "
            f"end with {kind.ending or '.jsonl'}."
        )
    if said := why_not_documents(line, ".jsonl") or other_encoding(line):
        raise CorpusError(f"{file.url} {said}")


def _with_text(
    file: Store, text_column: str, rows: Iterator[tuple[int, dict[str, Any] | str]]
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows of a file, which is refused at its end if no object had the key of the text."""
    keys: dict[str, None] = {}
    there = False
    for number, row in rows:
        if not there and isinstance(row, dict):
            # One row with the key is enough: rows without it are bad ones by themselves.
            there = text_column in row
            if len(keys) <= _NAMED:
                keys.update(dict.fromkeys(row))
        yield number, row
    if keys and not there:
        raise CorpusError(
            f"{file.url} has no key {text_column!r} in any line; there are "
            f"{', '.join(list(keys)[:_NAMED])}{', ...' * (len(keys) > _NAMED)}. Name yours under "
            "corpus.text_column."
        )


def _parquet_rows(
    file: Store, text_column: str, source: DigestedFile | None
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with _opened(file, source) as stream, _to_the_end(file):
        parquet = pq.ParquetFile(stream)
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


@contextlib.contextmanager
def _opened(file: Store, source: DigestedFile | None) -> Iterator[Any]:
    if source is not None:
        yield source
        return
    with file.open("") as stream:
        yield DigestedFile(stream)


@contextlib.contextmanager
def _to_the_end(file: Store) -> Iterator[None]:
    """A file that is cut short or garbled is an error of ours."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _refuse(file, file.read_range("", 0, BEGINNING))
        raise CorpusError(
            f"{file.url} cannot be read to its end ({error}): it is cut short, damaged or not what "
            "its name says. Copy it again."
        ) from error
