"""Survivors and their sequences, joined when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayinfluence.errors import StorageError
from rayinfluence.storage.metadata import COLUMN, REST, decoded
from rayinfluence.storage.tables import Rows

#: Columns of sequences that say where one is from.
_DOCUMENT = ("document_file", "document_id", "document_row")


class Join:
    """The rows of a method's survivors, and what is known of their sequences.

    Args:
        survivors: by query, direction and rank.
        sequences: by id.
    """

    def __init__(self, survivors: Rows, sequences: Rows) -> None:
        self.survivors, self.sequences = survivors, sequences
        self._kept: pa.Table | None = None
        self._runs = _runs(survivors.read(["query_id", "direction"]))

    def places(self, query_id: str, direction: str) -> NDArray[np.int64]:
        """Of a query's survivors of a direction, in the order of ranks."""
        runs = self._runs.get((query_id, direction), [])
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(*run) for run in runs)])

    def of_query(self, query_id: str) -> pa.Table:
        """A query's rows of the table of survivors, in their order."""
        places = [self.places(query_id, direction) for direction in ("proponent", "opponent")]
        return self.survivors.take(np.sort(np.concatenate(places)))

    def keep(self, places: NDArray[np.int64]) -> None:
        """Read the sequences of some survivors, and keep them."""
        ids = self.survivors.read(["sequence_id"])["sequence_id"].to_numpy()[places]
        self._kept = self.take(np.unique(ids), remember=False)

    def with_sequences(self, rows: pa.Table) -> pa.Table:
        """Rows of survivors with the columns of their sequences."""
        ids = rows["sequence_id"].to_numpy()
        found = self._kept
        if found is None or not np.isin(ids, found["sequence_id"].to_numpy()).all():
            found = self.take(np.unique(ids))
        places = np.searchsorted(found["sequence_id"].to_numpy(), ids)
        found = found.take(pa.array(places, pa.int64()))
        for field in found.schema:
            if field.name != "sequence_id":
                rows = rows.append_column(field, found[field.name])
        return rows

    def with_documents(self, rows: pa.Table) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Rows of survivors with where their sequences are from, and the documents' metadata."""
        there = self.sequences.schema
        columns = [*_DOCUMENT, *(name for name in (COLUMN, REST) if name in there.names)]
        table, schema = self.sequences.read(columns), pa.schema([there.field(c) for c in columns])
        places = self._places(rows["sequence_id"].to_numpy())
        for row, found in zip(
            rows.to_pylist(), table.take(pa.array(places)).to_pylist(), strict=True
        ):
            yield row | {key: found[key] for key in _DOCUMENT}, decoded(found, schema)

    def metadata(self) -> dict[int, dict[str, Any]]:
        """The documents' metadata of all sequences, by their ids."""
        there = self.sequences.schema
        columns = [name for name in (COLUMN, REST) if name in there.names]
        schema = pa.schema([there.field(name) for name in columns])
        table = self.sequences.read(["sequence_id", *columns])
        return {row["sequence_id"]: decoded(row, schema) for row in table.to_pylist()}

    def take(self, ids: NDArray[np.int64], remember: bool = True) -> pa.Table:
        """The sequences of some ids, ascending.

        Raises:
            StorageError: one of them is not in the table.
        """
        return self.sequences.take(self._places(ids), remember)

    def _places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where sequences are in their table, by their ids."""
        places: NDArray[np.int64] = np.searchsorted(self.ids, ids)
        if len(ids) and (places.max() >= len(self.ids) or (self.ids[places] != ids).any()):
            raise StorageError(
                "the table of sequences lacks some that the results are about: delete it and run "
                "again."
            )
        return places

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Of all sequences, ascending."""
        ids: NDArray[np.int64] = self.sequences.read(["sequence_id"])["sequence_id"].to_numpy()
        return ids


def _runs(keys: pa.Table) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Where the rows of each query and direction begin and end: once, as tables are written."""
    runs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    if not len(keys):
        return runs
    changes = np.zeros(len(keys), dtype=np.bool_)
    changes[0] = True
    for name in ("query_id", "direction"):
        changes[1:] |= pc.not_equal(keys[name][1:], keys[name][:-1]).to_numpy()
    starts = np.flatnonzero(changes)
    of_runs = keys.take(pa.array(starts)).to_pylist()
    for row, start, end in zip(of_runs, starts, [*starts[1:], len(keys)], strict=True):
        runs.setdefault((row["query_id"], row["direction"]), []).append((int(start), int(end)))
    return runs
