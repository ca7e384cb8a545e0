"""Groups of sequences: the values of rows, and their table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.metadata import at_key, canonical, shown
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.influence.groups import MISSING, MOST_VALUES, OTHER
from rayinfluence.influence.lift import lift, mean_and_error
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.results import GROUP_SCHEMA

#: The top that groups are counted in: one per cent of the sequences, and no fewer than this.
_LEAST_TOP = 10


def group_value(metadata: Mapping[str, Any], key: str) -> str:
    """The group that a sequence is in by a key: the value as canonical JSON, or MISSING."""
    value = at_key(metadata, key)
    return MISSING if value is None else canonical(value)


def group_digest(metadata: Mapping[str, Any], key: str) -> str:
    """The digest of the group that a sequence is in, whatever the length of its value."""
    return _digest(group_value(metadata, key))


class SplitGroups:
    """The groups that the sequences of a split are in, read once for all banks.

    Args:
        table: the split's rows.
        group_by: metadata keys.
    """

    def __init__(self, table: pa.Table, group_by: Sequence[str] = ()) -> None:
        metadata = [json.loads(text) for text in table["metadata"].to_pylist()] if group_by else []
        self._values = {key: [group_value(of_row, key) for of_row in metadata] for key in group_by}
        ids = table["sequence_id"].to_pylist() if group_by else []
        self._rows = {sequence_id: row for row, sequence_id in enumerate(ids)}

    def of(self, ids_N: NDArray[np.int64]) -> dict[str, list[str]]:
        """For each key the group of some sequences."""
        rows = [self._rows[sequence_id] for sequence_id in ids_N.tolist()] if self._values else []
        return {key: [values[row] for row in rows] for key, values in self._values.items()}


def left_out(partials: Sequence[Partial]) -> dict[str, int]:
    """Keys that have too many values, with how many sequences have one of those not kept."""
    found: dict[str, int] = {}
    for partial in partials:
        for (key, value), count in partial.groups.counts.items():
            if value == OTHER:
                found[key] = max(count, found.get(key, 0))
    return found


def too_many_values(key: str, count: int) -> str:
    """What to say of a key that has."""
    return (
        f"scan.group_by: {key!r} has more than {MOST_VALUES:,} values. That many have sums of "
        "their own, chosen by the digest of the value alone; the "
        f"{count:,} sequences with another value are one group, called other."
    )


def group_table(
    found: Mapping[str, tuple[Partial, int]], best: Mapping[str, Mapping[str, pa.ChunkedArray]]
) -> Iterator[pa.Table]:
    """A row per query, key and value, over all scanned sequences; the largest lift comes first.

    Args:
        found: by query id, the merged partial of its bank and its place there.
        best: by query id and key, the digests of the groups of its proponents, strongest first.

    Yields a table per query and key: of some keys there are thousands of groups.
    """
    for query_id, (partial, place) in found.items():
        n = max(_LEAST_TOP, -(-partial.scored(place)[0] // 100))
        for key in sorted({key for key, _ in partial.groups.counts}):
            yield _of_key(query_id, key, partial, place, best[query_id][key][:n].to_pylist())


def _of_key(query_id: str, key: str, partial: Partial, place: int, top: Sequence[str]) -> pa.Table:
    sums = partial.groups
    counts = {v: sums.count((other, v), place) for other, v in sums.counts if other == key}
    # A group that has no score for this query is none of its groups.
    values = sorted(value for value, count in counts.items() if count)
    counts_G = np.array([counts[value] for value in values], dtype=np.int64)
    parts_G3 = np.array([sums.sums_3Q[key, value][:, place] for value in values])
    positive_G, negative_G, squares_G = parts_G3.T
    mean_G, error_G = mean_and_error(positive_G + negative_G, squares_G, counts_G)
    kept = {_digest(value): value for value in values}
    counted = Counter(kept.get(member, OTHER) for member in top)
    in_top_G = np.array([counted[value] for value in values])
    nothing_G = np.full(len(values), np.nan)
    lifts = lift(in_top_G, len(top), counts_G) if top else (nothing_G, nothing_G, nothing_G)
    # Values are sorted already, and the sort is stable.
    order = np.lexsort((-counts_G, -np.nan_to_num(lifts[0])))
    names, types = zip(*(_shown(value) for value in values), strict=True)
    columns: list[Any] = [
        *([query_id] * len(values), [key] * len(values)),
        *(list(names), list(types), counts_G, counts_G / counts_G.sum()),
        *(positive_G, negative_G, mean_G, error_G),
        *([len(top)] * len(values), in_top_G, *lifts),
    ]
    arrays = [
        pa.array(column, field.type, from_pandas=True)
        for column, field in zip(columns, GROUP_SCHEMA, strict=True)
    ]
    return pa.table(arrays, schema=GROUP_SCHEMA).take(pa.array(order))


@lru_cache(maxsize=2 * MOST_VALUES)
def _digest(value: str) -> str:
    return digest_bytes(value.encode())


def _shown(value: str) -> tuple[str, str]:
    """A group's value and its type, as the table has them."""
    return {MISSING: ("", "missing"), OTHER: ("", "other")}.get(value) or shown(value)
