"""TF-IDF over token ids, as Grosse et al. (2023, section 3.1) filter the corpus of a large model.

    score(z, q) = sum over the tokens t of q    1[t occurs in z] * w(t)
    w(t) = log(1 + (N - h + 1/2) / (h + 1/2))

where h of the corpus's N sequences have t, and a token that q has twice counts twice. Their
equation 28 has BM25's k1 in it, but whether a token occurs in the place of how often: that gives
(k1 + 1) * 1 / (k1 + 1), which is 1, so that k1 decides nothing and is left out here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayinfluence.methods.bm25 import rarity
from rayinfluence.storage.results.meaning import Meaning


class TFIDF:
    """Sequences that have the rare tokens of a query, however often and however long they are."""

    meaning = Meaning(
        "no estimate of the model: TF-IDF says which sequences have the rare tokens of the prompt "
        "and the completion. It knows nothing of the model, and is shown for comparison.",
        "natural logarithms of how rare the shared tokens are",
        predicts=False,
        directed=False,
        has_layers=False,
        of_predictions=False,
    )

    def weight(
        self, holding_V: NDArray[np.int64], n_sequences: int, asked_V: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The rarer, and the more often asked, the more."""
        return asked_V * rarity(holding_V, n_sequences)

    def strength(
        self,
        occurrences: NDArray[np.float64],
        lengths: NDArray[np.float64],
        mean_length: float,
    ) -> NDArray[np.float64]:
        """1 where the term occurs."""
        return np.minimum(occurrences, 1.0)
