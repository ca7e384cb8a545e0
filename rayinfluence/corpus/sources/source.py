"""What a format of documents is: its names, and the rows of a file that is open already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Protocol

#: Its number in the file, from 1, and its columns, or why it is no document.
Row = tuple[int, dict[str, Any] | str]
#: Columns of a file in a message.
NAMED = 20
#: What is kept of a row that is refused, in bytes or characters.
RAW = 4096


class Refused(str):
    """Why a row is no document, where the source knows it as it is in the file.

    Attributes:
        raw: the row, or its beginning.
    """

    raw: str

    @classmethod
    def of(cls, reason: str, row: bytes) -> Refused:
        """Of a row's bytes, which may be in any encoding."""
        refused = cls(reason)
        refused.raw = row[:RAW].decode(errors="backslashreplace")
        return refused


class NoPage(Refused):
    """Why a row is no document though nothing is wrong with it: it holds no page of its own."""


class NotDocumentsError(Exception):
    """Why no document can be read from a file, in words that follow its address."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of the rows of a file.

    Attributes:
        text: the column of the text. Its value is whatever the file has there; rows of a format
            that is a text and nothing else have it under this name.
        columns: those that are read; None: all. A format that keeps columns apart leaves the others
            alone, whatever is in them; rows of the others may have more.
        blocks: whether each block between blank lines is a row, in a format that is plain text.
        is_needed: whether the column of the text has to be there; not where it is one of several,
            for which whoever reads looks himself.
        key: of the configuration, that names the column of the text.
        named: the columns that are asked for by name, which have to be there once alone; None: all.
    """

    text: str
    columns: frozenset[str] | None = None
    blocks: bool = False
    is_needed: bool = True
    key: str = "corpus.text_column"
    named: frozenset[str] | None = None


class Source(Protocol):
    """A format that documents are read from.

    It opens no file and knows no address: whoever reads makes the digest of the bytes on their way
    and says which file it was. What it raises of a file that is cut short or damaged is an OSError,
    an EOFError or pyarrow's; all else that is wrong with a row is a reason in the row's place, and
    the rows after it follow.
    """

    @property
    def endings(self) -> tuple[str, ...]:
        """Of names, in lower case, from the dot on; without that of a compression."""
        ...

    @property
    def seeks(self) -> bool:
        """Whether it reads its file here and there, and so none that is compressed as a whole."""
        ...

    @property
    def is_text(self) -> bool:
        """Whether its files are texts that people read, as they lie beside data files too."""
        ...

    def holds(self, begins: bytes) -> bool:
        """Whether a file that begins so, plain, is of this format and of no other.

        Its name does not count then. False where the first bytes do not tell.
        """
        ...

    def refusal(self, begins: bytes) -> str | None:
        """Why a file that begins so is none of this format, or None where it may be one."""
        ...

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """The rows in their order, each as soon as it is read.

        Args:
            stream: the file from its start, in plain bytes; it can be sought if the source seeks,
                and has ``peek`` if it does not.
            wanted: of the rows.

        Raises:
            NotDocumentsError: there is no such column (see :func:`without_column`), or the file
                is of another format.
        """
        ...


def without_column(said: str, columns: Iterable[str], key: str) -> NotDocumentsError:
    """That a file lacks a column.

    Args:
        said: how the sentence begins, up to the columns that there are.
        columns: their names; so many are shown, and no more are asked for.
        key: of the configuration, that names the column.
    """
    names = list(islice(columns, NAMED + 1))
    listed = ", ".join(names[:NAMED]) or "none"
    return NotDocumentsError(
        f"{said} {listed}{', ...' * (len(names) > NAMED)}. Name yours under {key}."
    )


def lacking_extra(what: str, extra: str) -> NotDocumentsError:
    """That a package is not installed without which a format cannot be read.

    Args:
        what: a file of it is.
        extra: of rayinfluence, which has the package.
    """
    return NotDocumentsError(
        f"is {what}, which is read with packages that are not installed here: install them (`pip "
        f"install 'rayinfluence[{extra}]'`), here and on the workers."
    )
