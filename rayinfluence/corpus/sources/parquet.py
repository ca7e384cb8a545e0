"""Parquet: rows of a table, numbered from 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow.parquet as pq

from rayinfluence.corpus.lines import is_binary
from rayinfluence.corpus.sources.divisible import Cut
from rayinfluence.corpus.sources.source import Row, Wanted
from rayinfluence.corpus.sources.tables import chosen, rows_of

_BATCH_ROWS = 1024
#: Of files whose footer is encrypted, too.
_ENCRYPTED = b"PARE"


class Parquet:
    """Tables that say at their end what is in them, and are compressed inside."""

    endings = (".parquet", ".parq", ".pq")
    seeks = True
    is_text = False

    def holds(self, begins: bytes) -> bool:
        """By its mark, that of encrypted files too."""
        return begins.startswith((b"PAR1", _ENCRYPTED)) and is_binary(begins)

    def refusal(self, begins: bytes) -> str | None:
        """It is encrypted as a whole; of all others the end decides."""
        if begins.startswith(_ENCRYPTED):
            return "is encrypted, and no keys are known here: write it again without encryption."
        return None

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """The rows, as dictionaries of the columns that are wanted."""
        parquet = _opened(stream)
        yield from _rows(parquet, wanted, Cut(0, parquet.num_row_groups, 0))

    def cuts(self, stream: BinaryIO, part_bytes: int) -> list[Cut]:
        """Runs of row groups, by the bytes that they have without compression."""
        metadata = _opened(stream).metadata
        cuts: list[Cut] = []
        start = rows = rows_before = n_bytes = 0
        for place in range(metadata.num_row_groups):
            group = metadata.row_group(place)
            rows += group.num_rows
            n_bytes += group.total_byte_size
            if n_bytes >= part_bytes or place + 1 == metadata.num_row_groups:
                cuts.append(Cut(start, place + 1, rows_before))
                start, rows_before, n_bytes = place + 1, rows, 0
        return cuts

    def part(self, stream: BinaryIO, wanted: Wanted, cut: Cut) -> Iterator[Row]:
        """The rows of some row groups."""
        return _rows(_opened(stream), wanted, cut)


def _opened(stream: BinaryIO) -> pq.ParquetFile:
    # Buffered ahead, all row groups would be read before the first row comes. Where pages have
    # checksums, a byte that was altered is no other text.
    return pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True)


def _rows(parquet: pq.ParquetFile, wanted: Wanted, cut: Cut) -> Iterator[Row]:
    columns = chosen(parquet.schema_arrow, wanted)
    groups = list(range(cut.start, cut.end))
    number = cut.rows_before
    for batch in parquet.iter_batches(_BATCH_ROWS, groups, columns, use_threads=False):
        for row in rows_of(batch):
            number += 1
            yield number, row
