"""The table of sequences of merged results: rows of the runs' tables, of the first that has one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.storage.metadata import COLUMN, REST, columns, decoded, joined, kinds_of
from rayinfluence.storage.results import SEQUENCES, Results, in_version, sequence_schema, table_key
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import writing_table

Ids = NDArray[np.int64]

#: Rows that are held at once.
_AT_ONCE = 2_000


def known_ids(results: Sequence[Results]) -> Ids:
    """Of all sequences that some results have the text of, ascending."""
    return np.unique(np.concatenate([one.sequence_ids for one in results]))


def sequences_of(results: Sequence[Results], ids: Ids) -> pa.Table:
    """The rows of some sequences, ascending, without their metadata."""
    parts = [part.drop_columns(_of_metadata(part)) for part in _parts(results, ids)]
    whole = pa.concat_tables(part.replace_schema_metadata(None) for part in parts)
    return whole.sort_by("sequence_id")


def write_sequences(
    results: Sequence[Results], ids: Ids, store: Store, fingerprint: str
) -> dict[str, str]:
    """Write the table of some sequences; returns its digest by its name.

    Columns of metadata have the types of all of these rows, so that they are read twice.

    Args:
        results: of each seed, by one method: all have one table of sequences.
        ids: of the sequences, ascending.
        store: the run directory.
        fingerprint: of the results.
    """
    starts = range(0, max(1, len(ids)), _AT_ONCE)
    kinds = joined(
        kinds_of(_metadata(part))
        for start in starts
        for part in _parts(results, ids[start : start + _AT_ONCE])
    )
    schema = in_version(sequence_schema(kinds), fingerprint)
    with writing_table(store, table_key(fingerprint, SEQUENCES), schema) as writer:
        for start in starts:
            parts = [
                _typed(part, schema) for part in _parts(results, ids[start : start + _AT_ONCE])
            ]
            writer.write(pa.concat_tables(parts).sort_by("sequence_id"))
    return {SEQUENCES: writer.digest}


def _parts(results: Sequence[Results], ids: Ids) -> Iterator[pa.Table]:
    """Rows by whose table they are from."""
    left = ids
    for place, one in enumerate(results):
        ours = left if place == len(results) - 1 else left[np.isin(left, one.sequence_ids)]
        yield one.sequences_of(ours)
        left = np.setdiff1d(left, ours, assume_unique=True)


def _metadata(part: pa.Table) -> list[dict[str, Any]]:
    rows = part.select(_of_metadata(part)).to_pylist()
    return [decoded(row, part.schema) for row in rows]


def _of_metadata(part: pa.Table) -> list[str]:
    return [name for name in (COLUMN, REST) if name in part.column_names]


def _typed(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """A part with the metadata that the whole table has."""
    of_metadata = columns(_metadata(part), schema)
    arrays = [
        of_metadata[field.name] if field.name in of_metadata else part[field.name].cast(field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema.remove_metadata())
