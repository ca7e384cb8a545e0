"""KNN-Shapley: exact values of training points in a vote of nearest neighbours (Jia et al. 2019).

A coalition S of points is worth the share of K votes that its min(K, |S|) points nearest to a
question have for the right answer,

    v(S) = (1 / K) sum over k <= min(K, |S|)   m(k-th nearest of S),      m = 1 where it is right

Sorted by distance, 1 the nearest and N the farthest, the values follow from the farthest to the
nearest without enumerating anything:

    value_N = m_N min(K, N) / (K N)
    value_i = value_{i+1} + (m_i - m_{i+1}) min(K, i) / (K i)

and add up to v(all). Of K >= N all vote in any coalition, and a value is m_i / K, whatever the
distance. The model trains nothing: points are places in training sequences with the
last hidden state there, and a vote is for the token that follows. A sequence has the sum of its
places' values, which are the players, and not it.

N point.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def neighbour_values(
    distances_N: NDArray[np.floating], matches_N: NDArray[np.bool_], k: int
) -> NDArray[np.float64]:
    """Values of points [N], in shares of the vote.

    Args:
        distances_N: from the question; of equally near points the earlier one is nearer.
        matches_N: whether a point's answer is the right one.
        k: how many vote.
    """
    n = len(distances_N)
    if not n:
        return np.zeros(0)
    order_N = np.argsort(distances_N, kind="stable")
    sorted_N = matches_N[order_N].astype(np.float64)
    places = np.arange(1, n + 1)
    weights_N = np.minimum(k, places) / (k * places)
    steps_N = np.append((sorted_N[:-1] - sorted_N[1:]) * weights_N[:-1], sorted_N[-1] / max(k, n))
    values_N = np.empty(n)
    values_N[order_N] = steps_N[::-1].cumsum()[::-1]
    return values_N
