"""BM25 over token ids (Robertson & Zaragoza 2009): what texts alone say.

    score(z, q) = sum over the distinct tokens t of q    w(t) * n / (n + k1 (1 - b + b L / M))
    w(t) = log(1 + (N - h + 1/2) / (h + 1/2))

where t occurs n times in z, h of the corpus's N sequences have t, z has L tokens, and a sequence
has M on average. Their w(t) is without the 1: it is below zero for a token that more than half of
all sequences have, and sharing one would count against a sequence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayinfluence.storage.results.meaning import Meaning

#: How soon more occurrences add little, and how much of its length is held against a sequence.
_K1, _B = 1.5, 0.75


def rarity(holding_V: NDArray[np.int64], n_sequences: int) -> NDArray[np.float64]:
    """w(t) of terms that so many of all sequences have."""
    return np.log1p((n_sequences - holding_V + 0.5) / (holding_V + 0.5))


class BM25:
    """Sequences that share rare tokens with a query."""

    meaning = Meaning(
        "no estimate of the model: BM25 says which sequences share rare tokens with the prompt and "
        "the completion. It knows nothing of the model, and is shown for comparison.",
        "natural logarithms of how rare the shared tokens are",
        predicts=False,
        directed=False,
        has_layers=False,
        of_predictions=False,
    )

    def weight(
        self, holding_V: NDArray[np.int64], n_sequences: int, asked_V: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The rarer, the more."""
        return rarity(holding_V, n_sequences)

    def strength(
        self,
        occurrences: NDArray[np.float64],
        lengths: NDArray[np.float64],
        mean_length: float,
    ) -> NDArray[np.float64]:
        """Below 1, and nearer to it with each occurrence."""
        return occurrences / (occurrences + _K1 * (1 - _B + _B * lengths / mean_length))
