"""Tables that are written and read some rows at a time, and never held whole."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from rayinfluence.errors import StorageError
from rayinfluence.storage.digest import digest_file
from rayinfluence.storage.store import Store, reading_parquet

#: Bytes of decoded row groups that a reader keeps.
_KEPT = 1 << 26
#: Rows of a row group, where small tables are put together.
_GROUP_ROWS = 1 << 16


class TableWriter:
    """Writes rows to one Parquet object as they come; equal tables in equal pieces, equal bytes.

    Attributes:
        digest: of the object, when the block that writes it has ended.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self.digest = ""
        self._file = file
        self._schema = schema
        self._writer = pq.ParquetWriter(
            file, schema, compression="zstd", write_page_index=True, write_page_checksum=True
        )

    def write(self, table: pa.Table) -> None:
        """Append rows as a row group of their own; none are none."""
        if len(table):
            arrays = [table[field.name].cast(field.type) for field in self._schema]
            self._writer.write_table(
                pa.table(arrays, schema=self._schema), row_group_size=len(table)
            )

    def extend(self, tables: Iterable[pa.Table]) -> None:
        """Append rows that come in small tables, many of them to a row group."""
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= _GROUP_ROWS:
                self.write(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            self.write(pa.concat_tables(waiting))

    def abandon(self) -> None:
        """Let go of the file, which pyarrow would write to when the writer is collected."""
        with contextlib.suppress(pa.ArrowException, OSError, ValueError):
            self._writer.close()

    def close(self) -> None:
        """Write the end."""
        self._writer.close()
        self.digest = digest_file(self._file)


@contextlib.contextmanager
def writing_table(store: Store, key: str, schema: pa.Schema) -> Iterator[TableWriter]:
    """Write a table some rows at a time; it is there, whole, when the block has ended well."""
    with store.spool(key) as file:
        writer = TableWriter(file, schema)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.close()


def read_row_groups(store: Store, key: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet object whose pages are checked as they are read; all columns, or some.

    Raises:
        StorageError: it is missing, damaged or not Parquet, or lacks a column.
    """
    with store.open(key) as file, reading_parquet(store, key):
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        table = parquet.read(columns=columns, use_threads=False)
        return table if columns is None else table.select(list(columns))


class Rows:
    """The rows of a table in memory, or of an object whose row groups are read when they are used.

    Args:
        table: in memory.
        store, key: where it is, otherwise.
        digest: of the object; checked before the first row is read.
    """

    def __init__(
        self,
        table: pa.Table | None = None,
        store: Store | None = None,
        key: str = "",
        digest: str | None = None,
    ) -> None:
        self._table = table
        self._place = store, key, digest
        self._footer: pq.FileMetaData | None = None
        self._schema: pa.Schema | None = None
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        if self._table is not None:
            return self._table.schema
        with self.open():
            return self._schema

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, of all columns or some."""
        if self._table is not None:
            return self._table if columns is None else self._table.select(list(columns))
        with self.open() as parquet:
            wanted = None if columns is None else list(columns)
            table = parquet.read(columns=wanted, use_threads=False)
            return table if columns is None else table.select(list(columns))

    def take(self, places: ArrayLike, remember: bool = True) -> pa.Table:
        """Some rows, in the order of their places.

        Args:
            places: of the rows.
            remember: whether row groups are kept, as far as there is room, for the next ones.
        """
        wanted = np.asarray(places, dtype=np.int64)
        if self._table is not None:
            return self._table.take(pa.array(wanted))
        if self._footer is None:
            with self.open():
                pass
        assert self._footer is not None
        sizes = [self._footer.row_group(i).num_rows for i in range(self._footer.num_row_groups)]
        ends = np.cumsum(sizes, dtype=np.int64)
        holding = np.searchsorted(ends, wanted, side="right")
        found, starts, start = [self.schema.empty_table()], {}, 0
        for group in np.unique(holding).tolist():
            inside = np.unique(wanted[holding == group])
            first = int(ends[group]) - sizes[group]
            found.append(self._group(group, remember).take(pa.array(inside - first)))
            starts[group] = start, inside
            start += len(inside)
        order = [
            starts[group][0] + int(np.searchsorted(starts[group][1], place))
            for group, place in zip(holding.tolist(), wanted.tolist(), strict=True)
        ]
        return pa.concat_tables(found).take(pa.array(order, pa.int64()))

    @contextlib.contextmanager
    def open(self) -> Iterator[pq.ParquetFile]:
        """The object, which is checked when it is opened for the first time.

        Raises:
            StorageError: it is missing, or not what its digest says.
        """
        store, key, digest = self._place
        assert store is not None
        with store.open(key) as file:
            if self._footer is None and digest_file(file) != digest:
                raise damaged(store, key)
            with reading_parquet(store, key):
                parquet = pq.ParquetFile(file, metadata=self._footer)
                self._footer, self._schema = parquet.metadata, parquet.schema_arrow
                yield parquet

    def _group(self, group: int, remember: bool) -> pa.Table:
        if group in self._groups:
            self._groups.move_to_end(group)
            return self._groups[group]
        with self.open() as parquet:
            table = parquet.read_row_group(group, use_threads=False)
        if not remember:
            return table
        self._groups[group] = table
        while len(self._groups) > 1 and sum(t.nbytes for t in self._groups.values()) > _KEPT:
            self._groups.popitem(last=False)
        return table


def is_table(store: Store, key: str, digest: str) -> bool:
    """Whether an object that is there has this digest; all of it is read, some at a time."""
    with store.open(key) as file:
        return digest_file(file) == digest


def damaged(store: Store, key: str) -> StorageError:
    """What to say of a table that is not the one that its manifest is about."""
    return StorageError(
        f"{store.url}/{key} is damaged: it is not the table that its manifest is about. Delete "
        "it and run again."
    )
