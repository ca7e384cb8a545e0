"""Hits of other queries, which are scored with a query as a control of its own hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rayinfluence.analysis.asked import Gate
from rayinfluence.analysis.layers import HITS, Pairs
from rayinfluence.errors import InputError
from rayinfluence.storage.results import Results


def drawn_hits(results: Results, least: float, n: int) -> dict[int, str]:
    """Texts of so many random sequences among the first hits of all known queries, by their ids.

    Args:
        results: of one method.
        least: log-probability per token of a known query, in nats.
        n: how many, if there are as many.

    Raises:
        InputError: no known query has a hit.
    """
    found = {one for query_id in Gate.of(results, least).known for one in _first(results, query_id)}
    if not found:
        raise InputError("--pairs: no known query has a hit.")
    ids = np.array(sorted(found), np.int64)
    chosen = np.random.Generator(np.random.Philox(0)).permutation(len(ids))[:n]
    table = results.sequences_of(np.sort(ids[chosen])).select(["sequence_id", "token_texts"])
    return {row["sequence_id"]: "".join(row["token_texts"]) for row in table.to_pylist()}


def shuffled_pairs(
    results: Results, ids: Sequence[int], scores: Mapping[str, Sequence[Mapping[str, float]]]
) -> Pairs:
    """Scores by module of sequences that are no first hits of the query.

    Args:
        results: of one method.
        ids: of drawn hits.
        scores: of each query, by module, of these in their order.
    """
    return {
        query_id: [
            one
            for sequence_id, one in zip(ids, of_query, strict=True)
            if sequence_id not in _first(results, query_id)
        ]
        for query_id, of_query in scores.items()
    }


def _first(results: Results, query_id: str) -> set[int]:
    return set(results.ids(query_id, "proponent", HITS))
