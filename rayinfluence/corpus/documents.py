"""Reading documents of any format that we know, local or s3://, one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rayinfluence.corpus.lines import BEGINNING
from rayinfluence.corpus.sources import source_of
from rayinfluence.corpus.sources.compression import plain
from rayinfluence.corpus.sources.source import NotDocumentsError, Row
from rayinfluence.errors import CorpusError
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store


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


def refuse_other_encoding(file: Store) -> None:
    """See that a file is not text in another encoding than UTF-8, by its first bytes.

    One that is compressed, or in object storage, is judged when it is read.

    Raises:
        CorpusError: it is.
        StorageError: it cannot be read.
    """
    source, codec = source_of(file.url)
    if codec or not file.is_local:
        return
    if said := source.refusal(file.read_range("", 0, BEGINNING)):
        raise CorpusError(f"{file.url} {said}")


def read_documents(
    file: Store, text_column: str, id_column: str, opened: DigestedFile | None = None
) -> Iterator[Document | BadDocument]:
    """The documents of one file in order; rows that are none come as :class:`BadDocument`.

    Args:
        file: the documents.
        text_column: the column or key of the text.
        id_column: of what names a document.
        opened: the file, where it is open already.

    Raises:
        CorpusError: the file is of no format that we read, or has no text column.
        StorageError: it cannot be read.
    """
    for number, row in _rows(file, text_column, opened):
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


def _rows(file: Store, text_column: str, opened: DigestedFile | None) -> Iterator[Row]:
    source, codec = source_of(file.url)
    with _opened(file, opened) as raw, _to_the_end(file):
        yield from source.rows(raw if source.seeks else plain(raw, codec), text_column)


@contextlib.contextmanager
def _opened(file: Store, opened: DigestedFile | None) -> Iterator[Any]:
    if opened is not None:
        yield opened
        return
    with file.open("") as stream:
        yield DigestedFile(stream)


@contextlib.contextmanager
def _to_the_end(file: Store) -> Iterator[None]:
    """What a source raises is an error of ours, with the file's address."""
    try:
        yield
    except NotDocumentsError as error:
        raise CorpusError(f"{file.url} {error}") from error
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{file.url} cannot be read to its end ({error}): it is cut short, damaged or not what "
            "its name says. Copy it again."
        ) from error
