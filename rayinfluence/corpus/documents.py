"""Reading documents of any format that we know, local or s3://, one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayinfluence.corpus.columns import keys_of
from rayinfluence.corpus.forms import Columns, Document, Lacks, document_of
from rayinfluence.corpus.magic import BEGINNING, kind_of, why_not_documents
from rayinfluence.corpus.paths import columns_of_path
from rayinfluence.corpus.sources import source_of
from rayinfluence.corpus.sources.compression import plain
from rayinfluence.corpus.sources.source import NotDocumentsError, Row
from rayinfluence.errors import CorpusError
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store


@dataclass(frozen=True)
class BadDocument:
    """A row that is not a document, where it is and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class LackingDocument(BadDocument):
    """A row without a column that a configuration names.

    Attributes:
        column: the first that it lacks.
        there: those that it has.
    """

    column: str
    there: tuple[str, ...]


def file_digest(file: Store) -> str:
    """The digest of a file's bytes: a copy under another path is the same file."""
    with file.open("") as stream:
        return DigestedFile(stream).digest()


def refuse_other_content(file: Store) -> None:
    """See that a file is what its name says, and text in UTF-8, by its first bytes.

    One in object storage is judged when it is read, and so is the encoding of a compressed one.

    Raises:
        CorpusError: it is not.
        StorageError: it cannot be read.
    """
    if file.is_local:
        _refuse(file, file.read_range("", 0, BEGINNING))


def _refuse(file: Store, begins: bytes) -> None:
    source, codec = source_of(file.url)
    said = why_not_documents(begins, file.url.lower())
    if said is None and not codec:
        said = source.refusal(begins)
    if said:
        raise CorpusError(f"{file.url} {said}")


def read_documents(
    file: Store, columns: Columns, opened: DigestedFile | None = None
) -> Generator[Document | BadDocument, None, None]:
    """The documents of one file in order; rows that are none come as :class:`BadDocument`.

    Args:
        file: the documents.
        columns: those that have a meaning.
        opened: the file, where it is open already.

    Raises:
        CorpusError: the file is of no format that we read, or has no text column.
        StorageError: it cannot be read.
    """
    columns = columns.of_file(file.url)
    of_path = columns_of_path(file.url, columns.path)
    # The text is its source's business, which knows the header; other columns are looked for here.
    needed = [column for column in keys_of(columns) if column not in columns.texts]
    is_in_file = columns.texts == (columns.text,) and columns.text not in of_path
    for number, row in _rows(file, columns.text if is_in_file else None, opened):
        place = f"{file.url}:{number}"
        if isinstance(row, str):
            yield BadDocument(place, row)
            continue
        # What a row says itself is nearer to it than where its file lies.
        row = {**row, **{key: of for key, of in of_path.items() if row.get(key) is None}}
        lacked = next((one for one in needed if one not in row), None)
        if lacked is None and len(columns.texts) > 1 and not row.keys() & set(columns.texts):
            lacked = columns.text
        found = (
            document_of(row, columns, file.name, number)
            if lacked is None
            else Lacks(lacked, f"{lacked!r} is missing")
        )
        if isinstance(found, Lacks):
            yield LackingDocument(place, found.reason, found.column, tuple(row))
        else:
            yield BadDocument(place, found) if isinstance(found, str) else found


def _rows(file: Store, text_column: str | None, opened: DigestedFile | None) -> Iterator[Row]:
    source, codec = source_of(file.url)
    with _opened(file, opened) as raw, _to_the_end(file):
        if source.seeks:
            yield from source.rows(raw, text_column)
            return
        stream = plain(raw, codec)
        begins = stream.peek(BEGINNING)[:BEGINNING]
        if not codec:
            _refuse(file, begins)
        elif not begins.startswith(source.begins) and (kind := kind_of(begins)):
            raise NotDocumentsError(
                f"holds {kind.name} within {codec}: take one of them away, and let its name say "
                "what is left."
            )
        yield from source.rows(stream, text_column)


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
        _refuse(file, file.read_range("", 0, BEGINNING))
        raise CorpusError(
            f"{file.url} cannot be read to its end ({error}): it is cut short, damaged or not what "
            "its name says. Copy it again."
        ) from error
