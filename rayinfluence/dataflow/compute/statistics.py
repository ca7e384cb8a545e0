"""Tables of what all scanned scores are like, from merged partials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.influence.concentration import power_law, share_of_largest
from rayinfluence.storage.results import STATISTICS_SCHEMA, TAIL_SCHEMA

#: By query id, the merged partial of its bank and its place there.
Partials = Mapping[str, tuple[Partial, int]]
_SIGNS = (1, -1)


def statistics_table(partials: Partials) -> pa.Table:
    """A row per query: counts and sums by sign, the share of the largest 1 %, and their law."""
    rows: list[dict[str, Any]] = []
    for query_id, (partial, place) in partials.items():
        positive, negative = (partial.tails.of_query(place, sign) for sign in _SIGNS)
        n_sequences, _ = partial.scored(place)
        # One per cent of all scanned sequences, and one sequence at the least.
        k = -(-n_sequences // 100)
        share, error = share_of_largest(positive, k) or (None, None)
        law = power_law(positive, k)
        rows.append(
            {
                "query_id": query_id,
                "n_sequences": n_sequences,
                "n_positive": positive.count,
                "n_negative": negative.count,
                "positive_sum": positive.total,
                "negative_sum": 0.0 - negative.total,
                "top_1_percent_share": share,
                "top_1_percent_share_error": error,
                "tail_exponent": law and law.exponent,
                "tail_exponent_error": law and law.error,
                "tail_start": law and law.start,
                "tail_count": law and law.count,
            }
        )
    return pa.Table.from_pylist(rows, schema=STATISTICS_SCHEMA)


def tails_table(partials: Partials) -> Iterator[pa.Table]:
    """A row per query, sign and bin that holds a score, in that order; a table per query."""
    for query_id, (partial, place) in partials.items():
        for sign in _SIGNS:
            tail = partial.tails.of_query(place, sign)
            n = len(tail.bins)
            columns = [[query_id] * n, [sign] * n, tail.lower, tail.upper, tail.counts, tail.sums]
            yield pa.table(columns, schema=TAIL_SCHEMA)
