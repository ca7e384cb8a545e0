"""Reading documents of any format that we know, local or s3://, one at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rayinfluence.corpus.columns import keys_of
from rayinfluence.corpus.forms import Columns, Document, document_of
from rayinfluence.corpus.magic import BEGINNING, kind_of, why_not_documents
from rayinfluence.corpus.sources import source_of
from rayinfluence.corpus.sources.compression import plain
from rayinfluence.corpus.sources.divisible import Cut, Divisible
from rayinfluence.corpus.sources.source import RAW, NotDocumentsError, Row
from rayinfluence.errors import CorpusError
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store


@dataclass(frozen=True)
class BadDocument:
    """A row that is not a document, where it is and why.

    ``raw`` is the row as the file has it, or its beginning.
    """

    place: str
    reason: str
    raw: str = field(default="", kw_only=True, compare=False)


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
        refuse_beginning(file, file.read_range("", 0, BEGINNING))


def refuse_beginning(file: Store, begins: bytes) -> None:
    """See that a file that begins so is what its name says.

    Raises:
        CorpusError: it is not.
    """
    source, codec = source_of(file.url)
    said = why_not_documents(begins, file.url.lower())
    if said is None and not codec:
        said = source.refusal(begins)
    if said:
        raise CorpusError(f"{file.url} {said}")


def read_documents(
    file: Store, columns: Columns, opened: Any = None, cut: Cut | None = None
) -> Generator[Document | BadDocument, None, None]:
    """The documents of one file in order; rows that are none come as :class:`BadDocument`.

    Args:
        file: the documents.
        columns: those that have a meaning.
        opened: the file, where it is open already.
        cut: of a file that is read in parts, which rows.

    Raises:
        CorpusError: the file is of no format that we read, or has no text column.
        StorageError: it cannot be read.
    """
    # The text is its source's business, which knows the header; other columns are looked for here.
    needed = [column for column in keys_of(columns) if column != columns.text]
    for number, row in _rows(file, columns.text, opened, cut):
        place = f"{file.url}:{number}"
        if isinstance(row, dict) and (lacked := [one for one in needed if one not in row]):
            why = f"{lacked[0]!r} is missing"
            yield LackingDocument(place, why, lacked[0], tuple(row), raw=_raw(row))
            continue
        # What is made a document of it is taken out of a row.
        whole = row if isinstance(row, str) else dict(row)
        found = row if isinstance(row, str) else document_of(row, columns, file.name, number)
        yield BadDocument(place, found, raw=_raw(whole)) if isinstance(found, str) else found


def _raw(row: dict[str, Any] | str) -> str:
    if isinstance(row, str):
        return getattr(row, "raw", "")
    # Long values are cut before they are written out: one may be a whole book.
    cut = {key: one[:RAW] if isinstance(one, str) else one for key, one in row.items()}
    return json.dumps(cut, ensure_ascii=False, default=str)[:RAW]


def _rows(file: Store, text_column: str, opened: Any, cut: Cut | None) -> Iterator[Row]:
    source, codec = source_of(file.url)
    with _opened(file, opened) as raw, to_the_end(file):
        if cut is not None:
            assert isinstance(source, Divisible)
            yield from source.part(raw, text_column, cut)
            return
        if source.seeks:
            yield from source.rows(raw, text_column)
            return
        stream = plain(raw, codec)
        begins = stream.peek(BEGINNING)[:BEGINNING]
        if not codec:
            refuse_beginning(file, begins)
        elif not begins.startswith(source.begins) and (kind := kind_of(begins)):
            raise NotDocumentsError(
                f"holds {kind.name} within {codec}: take one of them away, and let its name say "
                "what is left."
            )
        yield from source.rows(stream, text_column)


@contextlib.contextmanager
def _opened(file: Store, opened: Any) -> Iterator[Any]:
    if opened is not None:
        yield opened
        return
    with file.open("") as stream:
        yield DigestedFile(stream)


@contextlib.contextmanager
def to_the_end(file: Store) -> Iterator[None]:
    """What a source raises is an error of ours, with the file's address.

    Raises:
        CorpusError: the file cannot be read to its end, or is of another format.
    """
    try:
        yield
    except NotDocumentsError as error:
        raise CorpusError(f"{file.url} {error}") from error
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        refuse_beginning(file, file.read_range("", 0, BEGINNING))
        raise CorpusError(
            f"{file.url} cannot be read to its end ({error}): it is cut short, damaged or not what "
            "its name says. Copy it again."
        ) from error
