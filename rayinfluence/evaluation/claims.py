"""What the scores of a method say of trainings, before anybody looks at what became of them.

All that referees need of a matrix of scores: the matrix itself need not be kept.

N sequence, Q query, S subset, G group, K added sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.evaluation.lds import predicted
from rayinfluence.evaluation.leave_out import group_sums
from rayinfluence.evaluation.removal import top
from rayinfluence.evaluation.tracing import recall_at, reciprocal_rank

#: Documents that recall is of.
RECALL_AT = 10


@dataclass(frozen=True)
class Known:
    """Which documents belong to queries.

    Attributes:
        documents_N: the document of each sequence.
        relevant_Q: those of each query; empty where none is known.
    """

    documents_N: tuple[str, ...]
    relevant_Q: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Questions:
    """What is asked of all methods alike.

    Attributes:
        ids_N: of the sequences, ascending.
        weights: of sequences in the subsets of each protocol [S, N], by its name.
        n_removed: first sequences that are left out for a query.
        removed_for: places of the queries of which they are.
        groups_GN: weights of sequences without each group.
        added_K: ids of sequences that are seen once more.
        known: documents of queries, where they are known.
        n_patched: first sequences that a step is made on; 0 for none.
    """

    ids_N: NDArray[np.int64]
    weights: Mapping[str, NDArray[np.float32]]
    n_removed: int
    removed_for: tuple[int, ...]
    groups_GN: NDArray[np.float32]
    added_K: tuple[int, ...]
    known: Known | None
    n_patched: int


@dataclass(frozen=True)
class Claims:
    """What one method's scores say.

    Attributes:
        predicted: sums of scores for each subset [S, Q], by protocol.
        removed: ids of the first sequences, by the place of the query.
        groups_GQ: sums of scores of each group.
        added_KQ: scores of the added sequences.
        recall_Q, reciprocal_Q: of known documents; NaN where none is known.
        patched: ids of the first sequences of each query, for a step on them.
    """

    predicted: Mapping[str, NDArray[np.float64]]
    removed: Mapping[int, tuple[int, ...]]
    groups_GQ: NDArray[np.float64]
    added_KQ: NDArray[np.float64]
    recall_Q: NDArray[np.float64]
    reciprocal_Q: NDArray[np.float64]
    patched: tuple[tuple[int, ...], ...]


def claims(asked: Questions, scores_NQ: NDArray[np.float32]) -> Claims:
    """What scores say of all that is asked; larger scores are of proponents.

    A sequence that has no score counts as nothing in sums, and comes last in ranks.

    Args:
        asked: of all methods.
        scores_NQ: NaN where a sequence has no score.
    """
    queries = range(scores_NQ.shape[1])

    def first(query: int, n: int) -> tuple[int, ...]:
        return tuple(asked.ids_N[top(scores_NQ[:, query], n)].tolist())

    found = [_tracing(asked.known, query, scores_NQ[:, query]) for query in queries]
    counted_NQ = np.nan_to_num(scores_NQ, nan=0.0)
    return Claims(
        {name: predicted(weights, counted_NQ) for name, weights in asked.weights.items()},
        {query: first(query, asked.n_removed) for query in asked.removed_for},
        group_sums(asked.groups_GN, counted_NQ),
        scores_NQ[np.searchsorted(asked.ids_N, asked.added_K)].astype(np.float64),
        np.array([recall for recall, _ in found]),
        np.array([rank for _, rank in found]),
        tuple(first(query, asked.n_patched) for query in queries),
    )


def _tracing(known: Known | None, query: int, scores_N: NDArray[np.float32]) -> tuple[float, float]:
    """Recall and reciprocal rank; NaN where no document of a query is known."""
    if known is None or not (relevant := known.relevant_Q[query]):
        return float("nan"), float("nan")
    order_N = np.argsort(-scores_N, kind="stable")
    ranked = _documents(known.documents_N, order_N.tolist())
    return recall_at(ranked, relevant, RECALL_AT), reciprocal_rank(ranked, relevant)


def _documents(documents_N: Sequence[str], order: Sequence[int]) -> list[str]:
    """Documents by the best of their sequences, each once."""
    return list(dict.fromkeys(documents_N[place] for place in order))
