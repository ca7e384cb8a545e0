"""Tables as committed objects: rows that tables of results are put together of.

The bytes of a Parquet file are a tensor, since a checksum over all of them needs a place outside of
them: Parquet's own are of pages, and leave out the footer, which says what the pages are.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rayinfluence.errors import DamagedError
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors

_PARQUET = "parquet"


def write_piece(store: Store, key: str, table: pa.Table) -> None:
    """Write a table as one atomic object; equal tables under the same key give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    body = np.frombuffer(sink.getbuffer(), dtype=np.uint8)
    write_tensors(store, key, {_PARQUET: torch.from_numpy(body)}, {})


def read_piece(store: Store, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A table that is whole; all columns, or some in this order.

    Raises:
        DamagedError: the object is cut short or altered, or is another than its key says.
        StorageError: it is missing or cannot be read.
    """
    body = read_tensors(store, key)[0][_PARQUET].numpy()
    wanted = None if columns is None else list(columns)
    table = pq.ParquetFile(pa.BufferReader(body)).read(columns=wanted, use_threads=False)
    return table if wanted is None else table.select(wanted)


def read_if_whole(store: Store, key: str) -> pa.Table | None:
    """The same, or None where it is missing or damaged: for who would make it again then."""
    if not store.exists(key):
        return None
    try:
        return read_piece(store, key)
    except DamagedError:
        return None
