"""Formats whose large files are cut into parts, which are tokenised side by side."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

from rayinfluence.corpus.sources.source import Row, Wanted

#: What is read at once where lines are counted.
_BLOCK = 2**22


class Cut(NamedTuple):
    """A run of a file's rows.

    Attributes:
        start: its first byte, or row group: what the format is cut at.
        end: the first that is not of it.
        rows_before: how many lines or rows the file has before it.
    """

    start: int
    end: int
    rows_before: int


@runtime_checkable
class Divisible(Protocol):
    """A source that reads some rows of a file without those before them."""

    def cuts(self, stream: BinaryIO, part_bytes: int) -> list[Cut]:
        """All rows in runs of about so many bytes; none where the file can only be read whole.

        They are a function of the file's bytes alone.

        Args:
            stream: the file from its start, as :meth:`Source.rows` gets it.
            part_bytes: of a run.
        """
        ...

    def part(self, stream: BinaryIO, wanted: Wanted, cut: Cut) -> Iterator[Row]:
        """The rows of a run, with their numbers in the file; see :meth:`Source.rows`.

        That a text column is in no row only a whole file tells.
        """
        ...


def line_cuts(stream: BinaryIO, part_bytes: int) -> list[Cut]:
    """Runs of lines: each ends with the first line that ends at or after ``part_bytes``."""
    cuts: list[Cut] = []
    start = rows = rows_before = place = 0
    while block := stream.read(_BLOCK):
        counted = 0  # of the block
        while place + len(block) >= start + part_bytes:
            # The byte before the border may be the line's last one.
            ending = block.find(b"\n", max(counted, start + part_bytes - 1 - place))
            if ending < 0:
                break
            rows += block.count(b"\n", counted, ending + 1)
            counted = ending + 1
            cuts.append(Cut(start, place + counted, rows_before))
            start, rows_before = place + counted, rows
        rows += block.count(b"\n", counted)
        place += len(block)
    if place > start:
        cuts.append(Cut(start, place, rows_before))
    return cuts


class Slice(io.RawIOBase):
    """Some bytes of a file as a file that is read from its start to its end.

    Args:
        file: that can be sought, and that whoever opened it closes.
        start: the first byte.
        end: the first that is not of it.
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self._left = end - start
        file.seek(start)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, or what of it there are bytes for.

        Raises:
            EOFError: the file has become shorter.
        """
        part = self._file.read(min(len(buffer), self._left))
        if not part and self._left and len(buffer):
            raise EOFError(f"{self._left:,} bytes fewer than it had")
        buffer[: len(part)] = part
        self._left -= len(part)
        return len(part)
