"""All scores of a query as an analysis takes them: one by one where they were kept, or in bins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayinfluence.influence.tails import Tail, bin_of
from rayinfluence.storage.results import Results


def tail_of(results: Results, query_id: str, sign: int) -> Tail:
    """The histogram of a query's positive (1) or negative (-1) scores; empty where there is none.

    Args:
        results: of one method.
        query_id: of the query.
        sign: of the scores.
    """
    table = results.tails
    mask = pc.and_(pc.equal(table["query_id"], query_id), pc.equal(table["sign"], sign))
    lower, counts, sums = (
        table.filter(mask)[name].to_numpy() for name in ("lower", "count", "sum")
    )
    return Tail(bin_of(lower), counts, sums)


def dense_of(results: Results, query_id: str) -> NDArray[np.float64] | None:
    """All scores of a query [N], in the order of sequences; None where they were not kept."""
    if results.manifest.get("dense_scores") is None:
        return None
    return np.asarray(results.scores(query_id)["score"].to_numpy(), np.float64)


def dense_ids_of(
    results: Results, query_id: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """All scores of a query with the ids of their sequences [N]; None where they were not kept."""
    if results.manifest.get("dense_scores") is None:
        return None
    table = results.scores(query_id)
    ids_N = np.asarray(table["sequence_id"].to_numpy(), np.int64)
    return ids_N, np.asarray(table["score"].to_numpy(), np.float64)


def statistics_of(results: Results) -> dict[str, Mapping[str, Any]]:
    """Figures of all scores of each query, by its id."""
    return {row["query_id"]: row for row in results.statistics.to_pylist()}
