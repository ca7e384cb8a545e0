"""Splits: runs of row groups, and reading what is in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rayinfluence.corpus.shards import SCHEMA, RowGroup, row_group_digest
from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store

#: What pyarrow and numpy raise over columns that are garbled or of another type than ours.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, AttributeError)


@dataclass(frozen=True)
class Split:
    """A run of row groups of one shard: the unit of work, of retry and of the ledger.

    ``digest`` covers the content of its row groups and the ids of its sequences, so it names what a
    partial was made of. ``chosen``: the places of its rows, ascending, where it is not all of them.
    """

    index: int
    shard: str
    first_sequence_id: int
    first_row_group: int
    row_groups: tuple[RowGroup, ...]
    digest: str
    chosen: tuple[int, ...] | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens in the split; of one of which some rows are chosen, their share, about."""
        n_tokens = sum(group.n_tokens for group in self.row_groups)
        return n_tokens if self.chosen is None else n_tokens * self.n_rows // self._n_all

    @property
    def n_rows(self) -> int:
        """Sequences in the split."""
        return self._n_all if self.chosen is None else len(self.chosen)

    @property
    def sequence_ids(self) -> NDArray[np.int64]:
        """The ids of its sequences, ascending."""
        rows = np.arange(self._n_all) if self.chosen is None else np.array(self.chosen, np.int64)
        return rows + self.first_sequence_id

    @property
    def _n_all(self) -> int:
        return sum(group.n_rows for group in self.row_groups)

    def narrowed(self, sequence_ids: NDArray[np.int64]) -> Split | None:
        """The split with those of its sequences that are among some, ascending; None for none.

        With all of them it is the split itself, and what was made of that is not made again.
        """
        there = self.sequence_ids
        begin, end = np.searchsorted(sequence_ids, [there[0], there[-1] + 1])
        ids = np.intersect1d(there, sequence_ids[begin:end], assume_unique=True)
        if len(ids) in (0, len(there)):
            return self if len(ids) else None
        rows = tuple((ids - self.first_sequence_id).tolist())
        whole = digest([self.first_sequence_id, [group.digest for group in self.row_groups]])
        return replace(self, chosen=rows, digest=digest([whole, rows]))

    @property
    def name(self) -> str:
        """Where it is, in words."""
        last = self.first_row_group + len(self.row_groups) - 1
        return f"split {self.index} (row groups {self.first_row_group} to {last} of {self.shard})"


def read_split(store: Store, split: Split) -> pa.Table:
    """The rows of a split and their sequence ids, checked against the manifest's digests.

    Raises:
        CorpusError: the shard is not Parquet, or says something else than when it was written.
        StorageError: the shard is missing or cannot be read.
    """
    if split.chosen is not None:
        return read_rows(store, split, split.sequence_ids)
    return _numbered(store, split, range(len(split.row_groups)))


def read_rows(
    store: Store, split: Split, sequence_ids: Sequence[int] | NDArray[np.int64]
) -> pa.Table:
    """Some rows of a split, in the order of their ids; only their row groups are read and checked.

    Args:
        store: of the corpus.
        split: that holds the sequences.
        sequence_ids: of the rows, ascending.

    Raises:
        CorpusError: the shard is not Parquet, or says something else than when it was written.
        StorageError: the shard is missing or cannot be read.
    """
    ends = np.cumsum([group.n_rows for group in split.row_groups]) + split.first_sequence_id
    holding = np.unique(np.searchsorted(ends, sequence_ids, side="right"))
    table = _numbered(store, split, holding.tolist())
    places = np.searchsorted(table["sequence_id"].to_numpy(), sequence_ids)
    return table.take(pa.array(places))


def read_row_groups(store: Store, key: str, wanted: Mapping[int, RowGroup]) -> list[pa.Table]:
    """Row groups of a shard, by their places in it, checked against the manifest's digests.

    Raises:
        CorpusError: the shard is not Parquet, or says something else than when it was written.
        StorageError: the shard is missing or cannot be read.
    """
    with _open_shard(store, key) as parquet:
        try:
            groups = [parquet.read_row_group(place, use_threads=False) for place in wanted]
            digests = [row_group_digest(group) for group in groups]
        except _UNREADABLE as error:
            raise damaged_shard(store, key, str(error)) from error
    if digests != [group.digest for group in wanted.values()]:
        raise damaged_shard(store, key, "its content is not what the manifest records")
    return groups


def damaged_shard(store: Store, key: str, why: str) -> CorpusError:
    """What to say of a shard that cannot be used."""
    return CorpusError(
        f"the shard {store.url}/{key} cannot be used: {why}. Restore it, or delete the corpus "
        "folder and tokenise again."
    )


def _numbered(store: Store, split: Split, indices: Sequence[int]) -> pa.Table:
    """Row groups of a split, by their places in it, with the ids of their sequences."""
    wanted = {split.first_row_group + index: split.row_groups[index] for index in indices}
    groups = read_row_groups(store, split.shard, wanted)
    sizes = [group.n_rows for group in split.row_groups]
    starts = split.first_sequence_id + np.cumsum(sizes) - sizes
    ids = np.concatenate([np.arange(sizes[i], dtype=np.int64) + starts[i] for i in indices])
    return pa.concat_tables(groups).append_column("sequence_id", pa.array(ids))


@contextlib.contextmanager
def _open_shard(store: Store, key: str) -> Iterator[pq.ParquetFile]:
    with store.open(key) as stream:
        try:
            parquet = pq.ParquetFile(stream)
        except (pa.ArrowException, OSError) as error:
            raise damaged_shard(store, key, f"it is not Parquet ({error})") from error
        if missing := [name for name in SCHEMA.names if name not in parquet.schema_arrow.names]:
            raise damaged_shard(store, key, f"it has no column {missing[0]!r}")
        yield parquet
