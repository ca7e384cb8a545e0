"""Is a predicted change of the right size? Sequences are seen once more, and f is measured again.

For an added copy of sequence k and query q

    predicted_kq = I(k, q) / N                       delta_nats, what a report says
    measured_kq  = f_q(trained with one more copy of k) - f_q(trained on all)

with the same seed for both, the mean over seeds. The slope is that of the line through zero that
fits best, sum(predicted measured) / sum(predicted^2): 1 where predictions have the right size, 0.5
where they are twice too large. Through zero, as a sequence without influence changes nothing.
R^2 is the share of the sum of squares of what was measured that the line explains.

All queries are measured after the same training, so that a training is what is drawn for the
interval (`intervals.py`), with all of its queries.

Where the slope holds: pairs are put into five bins of equally many by |predicted|, or fewer. A bin
shows the slope where its own has an interval that excludes zero and overlaps with that of all
pairs. Bins beside each other that do are the range; small predictions drown in what retraining does
by itself, and large ones leave what is linear. The slope of all pairs is mostly that of the largest
predictions, whose squares are most of the sum.

K training with an added copy, Q query.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayinfluence.evaluation.correlations import spearman
from rayinfluence.influence.intervals import draws, percentiles
from rayinfluence.storage.results.evaluated import Bin, Calibration, Interval

_BINS, _FEWEST_IN_A_BIN = 5, 10
#: Pairs that are drawn.
_DRAWN = 1000


def calibration(
    predicted_KQ: NDArray[np.float64], measured_KQ: NDArray[np.float64], seed: int = 0
) -> Calibration | None:
    """Compare sizes; None where nothing was added, or where nothing is predicted at all.

    Args:
        predicted_KQ: changes in nats; NaN for pairs of which there is no prediction.
        measured_KQ: changes in nats.
        seed: of the interval's draws.
    """
    known_KQ = np.isfinite(predicted_KQ) & np.isfinite(measured_KQ)
    p_KQ, m_KQ = (np.where(known_KQ, one, 0.0) for one in (predicted_KQ, measured_KQ))
    slope = _slope(p_KQ, m_KQ, known_KQ, seed)
    if slope is None:
        return None
    total = float((m_KQ**2).sum())
    left = float(((m_KQ - slope.mean * p_KQ) ** 2).sum())
    p, m = p_KQ[known_KQ], m_KQ[known_KQ]
    order = np.argsort(np.abs(p_KQ), axis=None, kind="stable")
    order = order[known_KQ.ravel()[order]]
    bins = []
    for places in np.array_split(order, max(1, min(_BINS, len(order) // _FEWEST_IN_A_BIN))):
        inside_KQ = np.zeros(p_KQ.shape, dtype=np.bool_)
        inside_KQ.ravel()[places] = True
        own = _slope(np.where(inside_KQ, p_KQ, 0.0), m_KQ, inside_KQ, seed)
        if own is None:
            continue
        sizes = np.abs(p_KQ[inside_KQ])
        holds = own.excludes_zero and own.overlaps(slope)
        bins.append(Bin(float(sizes.min()), float(sizes.max()), len(places), own, holds))
    rank = float(spearman(p[:, None], m[:, None])[0])
    r_squared = 1 - left / total if total else float("nan")
    some = np.random.Generator(np.random.Philox(seed)).permutation(len(p))[:_DRAWN]
    pairs = tuple(zip(p[some].tolist(), m[some].tolist(), strict=True))
    return Calibration(slope, r_squared, rank, len(p), tuple(bins), pairs)


def _slope(
    p_KQ: NDArray[np.float64], m_KQ: NDArray[np.float64], inside_KQ: NDArray[np.bool_], seed: int
) -> Interval | None:
    """Of the pairs inside; its `n` is how many trainings have any."""
    some_K = inside_KQ.any(axis=1)
    products_K = np.where(inside_KQ, p_KQ * m_KQ, 0.0).sum(axis=1)[some_K]
    squares_K = np.where(inside_KQ, p_KQ**2, 0.0).sum(axis=1)[some_K]
    if not squares_K.sum() > 0:
        return None
    slope, n = float(products_K.sum() / squares_K.sum()), len(squares_K)
    if n == 1:
        return Interval(slope, None, None, n)
    products_B, squares_B = draws(np.stack([products_K, squares_K]), seed)
    low, high = percentiles(products_B[squares_B > 0] / squares_B[squares_B > 0])
    return Interval(slope, low, high, n)
