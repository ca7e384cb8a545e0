"""Parquet: rows of a table, numbered from 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow.parquet as pq

from rayinfluence.corpus.sources.source import Row, Wanted
from rayinfluence.corpus.sources.tables import chosen, rows_of

_BATCH_ROWS = 1024


class Parquet:
    """Tables that say at their end what is in them, and are compressed inside."""

    endings = (".parquet", ".parq", ".pq")
    seeks = True
    is_text = False

    def holds(self, begins: bytes) -> bool:
        """By its mark, that of encrypted files too."""
        return begins.startswith((b"PAR1", b"PARE"))

    def refusal(self, begins: bytes) -> str | None:
        """Its end decides."""
        return None

    def rows(self, stream: BinaryIO, wanted: Wanted) -> Iterator[Row]:
        """The rows, as dictionaries of the columns that are wanted."""
        # Buffered ahead, all row groups would be read before the first row comes.
        parquet = pq.ParquetFile(stream, pre_buffer=False)
        columns = chosen(parquet.schema_arrow.names, wanted)
        number = 0
        for batch in parquet.iter_batches(
            batch_size=_BATCH_ROWS, columns=columns, use_threads=False
        ):
            for row in rows_of(batch):
                number += 1
                yield number, row
