"""Scores by texts: terms are token ids, a sequence is what it has of a query's.

N sequence, Q query, V term, E occurrence of a term in a sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.methods.method import TextMethod

#: Numbers in a temporary.
_TILE_NUMBERS = 1 << 23


@dataclass(frozen=True)
class TermCounts:
    """How many sequences have each of some terms; merged in any order.

    Attributes:
        terms_V: ascending.
        holding_V: how many sequences have each.
        n_sequences, n_tokens: of all that were looked at.
    """

    terms_V: NDArray[np.int64]
    holding_V: NDArray[np.int64]
    n_sequences: int = 0
    n_tokens: int = 0

    @classmethod
    def none(cls, terms_V: NDArray[np.int64]) -> TermCounts:
        """The identity of merging."""
        return cls(terms_V, np.zeros(len(terms_V), np.int64))

    @classmethod
    def of(cls, terms_V: NDArray[np.int64], sequences: Sequence[NDArray[np.int32]]) -> TermCounts:
        """Of some sequences."""
        found = Occurrences.of(terms_V, sequences)
        pairs = np.unique(found.rows_E * len(terms_V) + found.places_E)
        holding_V = np.bincount(pairs % len(terms_V), minlength=len(terms_V)).astype(np.int64)
        return cls(terms_V, holding_V, len(sequences), sum(map(len, sequences)))

    def merge(self, other: TermCounts) -> TermCounts:
        """These and those of other sequences."""
        return TermCounts(
            self.terms_V,
            self.holding_V + other.holding_V,
            self.n_sequences + other.n_sequences,
            self.n_tokens + other.n_tokens,
        )

    def query(self, method: TextMethod, tokens: Sequence[int]) -> dict[str, Tensor]:
        """What a method keeps of a query: its terms, what each counts, and the mean length."""
        terms, asked = np.unique(np.asarray(tokens, dtype=np.int64), return_counts=True)
        holding = self.holding_V[np.searchsorted(self.terms_V, terms)]
        return {
            "terms": torch.from_numpy(terms),
            "weights": torch.from_numpy(method.weight(holding, self.n_sequences, asked)),
            "mean_length": torch.tensor([self.n_tokens / self.n_sequences], dtype=torch.float64),
        }


@dataclass(frozen=True)
class Occurrences:
    """Where some terms occur in some sequences, in their order.

    Attributes:
        rows_E: the sequences.
        positions_E: of the token in its sequence.
        places_E: of the term among the terms.
    """

    rows_E: NDArray[np.int64]
    positions_E: NDArray[np.int64]
    places_E: NDArray[np.int64]

    @classmethod
    def of(cls, terms_V: NDArray[np.int64], sequences: Sequence[NDArray[np.int32]]) -> Occurrences:
        """Of terms that ascend."""
        lengths = np.array([len(one) for one in sequences], dtype=np.int64)
        tokens = np.concatenate([np.zeros(0, np.int32), *sequences]).astype(np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        positions = np.arange(len(tokens)) - np.repeat(lengths.cumsum() - lengths, lengths)
        places = np.searchsorted(terms_V, tokens)
        (there,) = np.nonzero(np.isin(tokens, terms_V))
        return cls(rows[there], positions[there], places[there])

    def counts_NV(self, n_sequences: int, n_terms: int) -> NDArray[np.float64]:
        """How often each term occurs in each sequence."""
        flat = np.bincount(self.rows_E * n_terms + self.places_E, minlength=n_sequences * n_terms)
        return flat.reshape(n_sequences, n_terms).astype(np.float64)


class TextBank:
    """All queries of a method that reads texts.

    Args:
        method: whose they are.
        query_digests: what the queries are, in the order of the Q axis.
        tensors: as :func:`stack_texts` made them.
    """

    def __init__(
        self, method: TextMethod, query_digests: Sequence[str], tensors: Mapping[str, Tensor]
    ) -> None:
        self.query_digests = list(query_digests)
        self._method = method
        terms, weights = tensors["terms"].numpy(), tensors["weights"].numpy()
        ends = tensors["ends"].tolist()
        self._mean_length = float(tensors["mean_length"][0])
        self._terms_V = np.unique(terms)
        cuts = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self._queries = [(np.searchsorted(self._terms_V, terms[cut]), weights[cut]) for cut in cuts]

    def __len__(self) -> int:
        return len(self.query_digests)

    def scores(self, sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.float64]:
        """[N, Q], some sequences at a time."""
        scores_NQ = np.zeros((len(sequences), len(self)))
        step = max(1, _TILE_NUMBERS // len(self._terms_V))
        for start in range(0, len(sequences), step):
            some = sequences[start : start + step]
            _, strength_nV = self._strength(some)
            for query, (places, weights) in enumerate(self._queries):
                products = strength_nV[:, places] * weights
                scores_NQ[start : start + len(some), query] = products.sum(axis=1)
        return scores_NQ

    def token_scores(self, query: int, sequence: NDArray[np.int32]) -> NDArray[np.float64]:
        """A score by token: what a term adds, evenly over its occurrences."""
        counts_V, strength_V = (part[0] for part in self._strength([sequence]))
        places, weights = self._queries[query]
        shares_V = np.zeros(len(self._terms_V))
        shares_V[places] = strength_V[places] * weights / np.maximum(counts_V[places], 1)
        found = Occurrences.of(self._terms_V, [sequence])
        scores_T = np.zeros(len(sequence))
        scores_T[found.positions_E] = shares_V[found.places_E]
        return scores_T

    def _strength(
        self, sequences: Sequence[NDArray[np.int32]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How often all terms occur in some sequences [n, V], and what the method makes of it."""
        found = Occurrences.of(self._terms_V, sequences)
        counts_nV = found.counts_NV(len(sequences), len(self._terms_V))
        lengths_n1 = np.array([[len(one)] for one in sequences], dtype=np.float64)
        return counts_nV, self._method.strength(counts_nV, lengths_n1, self._mean_length)


def stack_texts(queries: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join queries that :meth:`TermCounts.query` made one by one, of the same corpus."""
    return {
        "terms": torch.cat([query["terms"] for query in queries]),
        "weights": torch.cat([query["weights"] for query in queries]),
        "ends": torch.tensor([len(query["terms"]) for query in queries]).cumsum(0),
        "mean_length": queries[0]["mean_length"],
    }
