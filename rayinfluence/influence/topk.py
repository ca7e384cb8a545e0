"""The global top-k of each query.

A monoid under one total order, score descending, then sequence id ascending.

Q query, K kept. Merging in any order, any grouping and any number of times gives the same bytes; a
sequence that comes twice is kept once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Fills places that no sequence has taken: last in the order.
_NO_ID = np.iinfo(np.int64).max


@dataclass(frozen=True)
class TopK:
    """The k best of each query: scores (float64, -inf where empty) and sequence ids [Q, K]."""

    scores_QK: NDArray[np.float64]
    ids_QK: NDArray[np.int64]

    @classmethod
    def empty(cls, n_queries: int, k: int) -> TopK:
        """The identity of merging."""
        return cls(np.full((n_queries, k), -np.inf), np.full((n_queries, k), _NO_ID))

    @classmethod
    def of(cls, scores_NQ: NDArray[np.float64], ids_N: NDArray[np.int64], k: int) -> TopK:
        """The k best POSITIVE scores of each query among N sequences.

        Scores that are not finite have no place: they are passed over.
        """
        good_NQ = (scores_NQ > 0) & (scores_NQ < np.inf)  # NaN is neither
        scores_QN = np.where(good_NQ, scores_NQ, -np.inf).T
        n = scores_QN.shape[1]
        if n <= 2 * k or len(np.unique(ids_N)) < n:
            ids_QN = np.broadcast_to(ids_N, scores_QN.shape)
            return _best(scores_QN, np.where(np.isneginf(scores_QN), _NO_ID, ids_QN), k)
        # Sorting all to keep a few would take ten times as long as finding the k-th.
        best = cls.empty(len(scores_QN), k)
        least_Q = np.partition(scores_QN, n - k, axis=1)[:, n - k]
        for query, (scores_N, least) in enumerate(zip(scores_QN, least_Q, strict=True)):
            place = np.flatnonzero((scores_N >= least) & (scores_N > 0))
            order = place[np.lexsort((ids_N[place], -scores_N[place]))][:k]
            best.scores_QK[query, : len(order)] = scores_N[order]
            best.ids_QK[query, : len(order)] = ids_N[order]
        return best

    def merge(self, other: TopK) -> TopK:
        """The k best of both."""
        return _best(
            np.concatenate([self.scores_QK, other.scores_QK], axis=1),
            np.concatenate([self.ids_QK, other.ids_QK], axis=1),
            self.scores_QK.shape[1],
        )

    def of_query(self, query: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scores and sequence ids of one query, best first, without empty places."""
        taken = ~np.isneginf(self.scores_QK[query])
        return self.scores_QK[query][taken], self.ids_QK[query][taken]


def _best(scores: NDArray[np.float64], ids: NDArray[np.int64], k: int) -> TopK:
    scores, ids = _sorted(scores, ids)
    # Equal ids have equal scores, since a score is a pure function of its sequence: they are
    # neighbours.
    repeated = np.zeros_like(ids, dtype=bool)
    repeated[:, 1:] = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] != _NO_ID)
    if repeated.any():
        scores, ids = _sorted(np.where(repeated, -np.inf, scores), np.where(repeated, _NO_ID, ids))
    missing = k - scores.shape[1]
    if missing > 0:
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
        ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=_NO_ID)
    return TopK(np.ascontiguousarray(scores[:, :k]), np.ascontiguousarray(ids[:, :k]))


def _sorted(
    scores: NDArray[np.float64], ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    order = np.lexsort((ids, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
