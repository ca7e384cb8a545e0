"""Removal: how much less likely is a completion after training without its proponents?

Of each query that is asked, the first sequences by a method are dropped (1 % of the corpus, say),
a model is trained without them, and

    QLD_q = f_q(trained on all) - f_q(trained without),      f_q = log p(completion | prompt)

in nats, the rise of the query's loss ("query loss difference"; the counterfactual of Koh & Liang
2017, and of Ilyas et al. 2022 as brittleness). Larger is better. Every method drops equally many;
sequences drawn at random say what losing so many does whatever they are, and BM25 what words alone
tell. Unlike a rank correlation over random subsets it asks for the very top of a ranking.

Q query, N sequence, R seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def n_removed(share: float, n_sequences: int) -> int:
    """How many are dropped: at least one, and not all."""
    return min(max(1, round(share * n_sequences)), n_sequences - 1)


def top(scores_N: NDArray[np.float32] | NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Places of the n largest scores, in the order of places; of equal ones the first.

    Sequences without a score (NaN) come after all others.
    """
    found: NDArray[np.int64] = np.sort(np.argsort(-scores_N, kind="stable")[:n])
    return found


def losses(full_RQ: NDArray[np.float64], without_RQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """QLD of each query, the mean over seeds [Q].

    Args:
        full_RQ: f of each query after training on all, by seed.
        without_RQ: f of each query after training without its own, by the same seeds.
    """
    found_Q: NDArray[np.float64] = (full_RQ - without_RQ).mean(axis=0)
    return found_Q
