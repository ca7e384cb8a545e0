"""The first documents of some files: what all of them will be like, before they are tokenised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from rayinfluence.corpus.columns import keys_of
from rayinfluence.corpus.documents import LackingDocument, read_documents
from rayinfluence.corpus.forms import Columns, Document
from rayinfluence.corpus.metadata import dotted
from rayinfluence.corpus.sources import find_source
from rayinfluence.corpus.sources.source import without_column
from rayinfluence.errors import BadFileError, CorpusError
from rayinfluence.storage.store import Store

#: Rows of a file, and characters, that are enough.
_ROWS = 100
_CHARACTERS = 2**18
#: A file of more bytes that is not read from its start, as Parquet, may have pages of as many.
_LARGE = 2**26


@dataclass(frozen=True)
class Beginning:
    """Documents that the first and the last of some files begin with.

    Attributes:
        documents: those that have a text.
        is_all: whether the files hold no others.
        has_ids: whether one of them has a name of its own.
    """

    documents: list[Document]
    is_all: bool
    has_ids: bool

    @property
    def keys(self) -> dict[str, int]:
        """How many of them have each key of metadata."""
        return Counter(key for document in self.documents for key in dotted(document.metadata))

    @property
    def left_out(self) -> dict[str, int]:
        """How many of them have each column that would be metadata if it were small."""
        return Counter(key for document in self.documents for key in document.left_out)

    @property
    def whose(self) -> str:
        """Which documents these are, in a sentence."""
        first = f"first {len(self.documents):,} documents"
        return f"the {'documents' if self.is_all else first} that are to be tokenised"


def beginning(files: Sequence[Store], columns: Columns, may_be_bad: bool) -> Beginning:
    """Read the first documents of the first and of the last file.

    Args:
        files: of documents.
        columns: those that have a meaning.
        may_be_bad: whether a corpus may do without files that cannot be read to their end; of such
            a file the documents count that come before its damage.

    Raises:
        CorpusError: one of the two cannot be read, or lacks a column that is named, in all rows
            that are read.
    """
    chosen = {file.url: file for file in (files[0], files[-1])}
    documents: list[Document] = []
    is_all, has_ids = len(chosen) == len(files), False
    for file in chosen.values():
        source = find_source(file.url)
        if source and source.seeks and file.info().size > _LARGE:
            is_all = False
            continue
        n_rows, characters, whole = 0, 0, True
        lacking: list[LackingDocument] = []
        # Of one that is damaged it is not known what comes after.
        is_read = False
        with (
            suppress(*([BadFileError] if may_be_bad else [])),
            closing(read_documents(file, columns)) as rows,
        ):
            for number, row in enumerate(rows):
                if number == _ROWS or characters > _CHARACTERS:
                    is_all = whole = False
                    break
                if isinstance(row, LackingDocument):
                    lacking.append(row)
                if isinstance(row, Document) and not row.is_empty:
                    documents.append(row)
                    characters += row.n_characters
                    has_ids |= row.document_id != f"{file.name}:{row.row}"
                n_rows = number + 1
            is_read = True
        is_all, whole = is_all and is_read, whole and is_read
        if len(lacking) == n_rows and len({row.column for row in lacking}) == 1:
            raise _without(lacking, file, columns, whole)
    return Beginning(documents, is_all, has_ids)


def _without(
    lacking: Sequence[LackingDocument], file: Store, columns: Columns, whole: bool
) -> CorpusError:
    """That a file lacks a column which another key than that of the text names."""
    column = lacking[0].column
    there = dict.fromkeys(name for one in lacking for name in one.there)
    where = "in any row" if whole else f"in its first {len(lacking):,} rows"
    key = keys_of(columns).get(column, "corpus.template")
    said = without_column(f"has no {column!r} {where}; there are", there, key)
    other = " Or set that to all or completion." if column == columns.counted else ""
    return CorpusError(f"{file.url} {said}{other}")
