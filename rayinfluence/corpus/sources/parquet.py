"""Parquet: rows of a table, numbered from 1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow.parquet as pq

from rayinfluence.corpus.sources.source import Row, without_column

_BATCH_ROWS = 1024


class Parquet:
    """Tables that say at their end what is in them, and are compressed inside."""

    endings = (".parquet",)
    seeks = True
    begins = (b"PAR1", b"PARE")

    def refusal(self, begins: bytes) -> str | None:
        """Its end decides."""
        return None

    def rows(self, stream: BinaryIO, text_column: str | None) -> Iterator[Row]:
        """The rows, as dictionaries of all columns."""
        # Buffered ahead, all row groups would be read before the first row comes.
        parquet = pq.ParquetFile(stream, pre_buffer=False)
        columns = parquet.schema_arrow.names
        if text_column is not None and text_column not in columns:
            raise without_column(f"has no column {text_column!r}; it has", columns)
        number = 0
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield number, row
