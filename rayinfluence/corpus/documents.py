"""Reading documents of any format that we know, local or s3://, one at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rayinfluence.corpus.columns import keys_of
from rayinfluence.corpus.forms import Columns, Document, Lacks, document_of, separated
from rayinfluence.corpus.magic import BEGINNING, format_of
from rayinfluence.corpus.paths import columns_of_path
from rayinfluence.corpus.sources.compression import Codec, codec_of, plain
from rayinfluence.corpus.sources.divisible import Cut, Divisible
from rayinfluence.corpus.sources.source import (
    RAW,
    NoPage,
    NotDocumentsError,
    Row,
    Source,
    Wanted,
)
from rayinfluence.corpus.token_files import (
    index_beside,
    is_token_file,
    refuse_no_tokens,
    rows_of_tokens,
)
from rayinfluence.corpus.token_rows import TokenForm
from rayinfluence.errors import BadFileError, CorpusError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.reading import DigestedFile
from rayinfluence.storage.store import Store

#: Why a document is passed over.
NO_TEXT = "its text is empty or white space"
NO_TOKENS = "the tokenizer makes no token of its text"
ONE_TOKEN = "it has one token, which predicts nothing"


@dataclass(frozen=True)
class BadDocument:
    """A row that is not a document, where it is and why.

    ``raw`` is the row as the file has it, or its beginning.
    """

    place: str
    reason: str
    raw: str = field(default="", kw_only=True, compare=False)


class NoPageDocument(BadDocument):
    """A row that is as it should be, and no document: an image, or a page that was not found."""


@dataclass(frozen=True)
class LackingDocument(BadDocument):
    """A row without a column that a configuration names.

    Attributes:
        column: the first that it lacks.
        there: those that it has.
    """

    column: str
    there: tuple[str, ...]


def file_digest(file: Store, opened: DigestedFile | None = None) -> str:
    """The digest of a file's bytes: a copy under another path is the same file.

    With those of the index beside it, where it has one.

    Args:
        file: of documents.
        opened: the file, where it is open already.
    """
    with _opened(file, opened) as stream:
        own: str = stream.digest()
    index = index_beside(file)
    return own if index is None else digest([own, file_digest(index)])


def refuse_other_content(file: Store, tokens: TokenForm | None = None) -> None:
    """See that a file is of a format that documents are read from, by its first bytes.

    One in object storage is judged when it is read, and so is one that is cut short; but files of
    ids and nothing else say how long they are.

    Args:
        file: of documents.
        tokens: how ids lie in it, where it is of those.

    Raises:
        CorpusError: it is not.
        StorageError: it cannot be read.
    """
    if file.is_local and tokens is not None and is_token_file(file.name):
        refuse_no_tokens(file, tokens)
    elif file.is_local:
        with contextlib.suppress(EOFError):
            known(file)


def known(file: Store) -> Source | None:
    """The format of a file; None where it is empty.

    Raises:
        CorpusError: it is of none.
        EOFError: it is cut short or damaged.
        StorageError: it cannot be read.
    """
    with _opened(file, None) as raw:
        try:
            return judged(raw, file.name)[1]
        except NotDocumentsError as error:
            raise CorpusError(f"{file.url} {error}") from error
        except OSError as error:
            # An OSError would be taken for one of the storage, which is not to blame.
            raise EOFError(str(error)) from error


def rows_of(file: Store) -> Generator[dict[str, Any]]:
    """The rows of a file as they are, for who does not know its columns yet.

    A format that is a text and nothing else has it under ``text``. Rows that cannot be read are
    passed over.

    Raises:
        CorpusError: the file is of no format that we read.
        StorageError: it cannot be read.
    """
    for _, row in _rows(file, Wanted("text", is_needed=False), None, None, None):
        if not isinstance(row, str):
            yield row


def read_documents(
    file: Store, columns: Columns, opened: DigestedFile | None = None, cut: Cut | None = None
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
    columns = columns.of_file(file.url)
    of_path = columns_of_path(file.url, columns.path)
    # The text is its source's business, which knows the header; other columns are looked for here.
    needed = [column for column in keys_of(columns) if column not in columns.texts]
    is_in_file = columns.texts == (columns.text,) and columns.text not in of_path
    key = keys_of(columns).get(columns.text, Wanted.key)
    wanted = Wanted(columns.text, columns.wanted, columns.blocks, is_in_file, key, columns.named)
    for number, row in _rows(file, wanted, columns.tokens, opened, cut):
        place = f"{file.url}:{number}"
        if isinstance(row, str):
            of_kind = NoPageDocument if isinstance(row, NoPage) else BadDocument
            yield of_kind(place, row, raw=getattr(row, "raw", ""))
            continue
        in_file = row
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
            yield LackingDocument(place, found.reason, found.column, tuple(row), raw=_raw(in_file))
            continue
        if isinstance(found, str):
            yield BadDocument(place, found, raw=_raw(in_file))
        elif columns.tokens is None:
            yield found
        elif isinstance(documents := separated(found, columns.tokens), str):
            yield BadDocument(place, documents, raw=_raw(in_file))
        else:
            yield from documents


def _raw(row: dict[str, Any]) -> str:
    # Long values are cut before they are written out: one may be a whole book.
    cut = {key: one[:RAW] if isinstance(one, str) else one for key, one in row.items()}
    return json.dumps(cut, ensure_ascii=False, default=str)[:RAW]


def _rows(
    file: Store,
    wanted: Wanted,
    tokens: TokenForm | None,
    opened: DigestedFile | None,
    cut: Cut | None,
) -> Iterator[Row]:
    with _opened(file, opened) as raw, to_the_end(file):
        if tokens is not None and is_token_file(file.name):
            yield from rows_of_tokens(file, raw, tokens, cut)
            return
        stream, source, _ = judged(raw, file.name)
        if cut is not None:
            if not isinstance(source, Divisible):
                raise EOFError("it is another file than it was when it was cut into parts")
            yield from source.part(raw, wanted, cut)
        elif source is not None:
            yield from source.rows(stream, wanted)


def judged(raw: Any, name: str) -> tuple[Any, Source | None, Codec | None]:
    """The plain bytes of a file that is open, its format, and how it is compressed.

    The format is None where it is empty.

    Raises:
        NotDocumentsError: documents are not read from such files.
        OSError, EOFError: it is cut short.
    """
    codec = codec_of(raw.read(BEGINNING))
    raw.seek(0)
    stream = plain(raw, codec)
    begins = stream.peek()[:BEGINNING]
    if not begins:
        return stream, None, codec
    source = format_of(begins, name, codec)
    if not source.seeks:
        return stream, source, codec
    raw.seek(0)
    return raw, source, codec


@contextlib.contextmanager
def _opened(file: Store, opened: DigestedFile | None) -> Iterator[Any]:
    if opened is not None:
        yield opened
        return
    with file.open("") as stream:
        yield DigestedFile(stream)


@contextlib.contextmanager
def to_the_end(file: Store) -> Iterator[None]:
    """What a source raises is an error of ours, with the file's address.

    Raises:
        BadFileError: the file cannot be read to its end.
        CorpusError: it is of another format.
    """
    try:
        yield
    except NotDocumentsError as error:
        raise CorpusError(f"{file.url} {error}") from error
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise BadFileError(
            f"{file.url} cannot be read to its end ({error}): it is cut short, damaged or not what "
            "its name says. Copy it again."
        ) from error
