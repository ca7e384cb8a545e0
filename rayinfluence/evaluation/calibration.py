"""Is a predicted change of the right size? Sequences are seen once more, and f is measured again.

For an added copy of sequence k and query q

    predicted_kq = I(k, q) / N                       delta_nats, what a report says
    measured_kq  = f_q(trained with one more copy of k)

the mean over seeds. Of both the mean over all k is taken off, query by query (of a bin, over those
in it), so that trainings with a copy are compared with each other: the same training without any is
a single one, and what it has by chance would be in all differences from it, where no number of
copies shows it. The slope is that of the line through zero that fits what is left best,
sum(predicted measured) / sum(predicted^2): 1 where predictions have the right size, 0.5 where they
are twice too large. R^2 is the share of the sum of squares of what was measured that the line
explains.

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
from rayinfluence.evaluation.intervals import draws, percentiles
from rayinfluence.storage.results.evaluated import Bin, Calibration, Interval

_BINS, _FEWEST_IN_A_BIN = 5, 10
#: Pairs that are drawn.
_DRAWN = 1000


def calibration(
    predicted_KQ: NDArray[np.float64], measured_KQ: NDArray[np.float64], seed: int = 0
) -> Calibration | None:
    """Compare sizes; None of fewer than two trainings, or where all predictions are equal.

    Args:
        predicted_KQ: changes in nats; NaN for pairs of which there is no prediction.
        measured_KQ: f, or its change from any one model, in nats.
        seed: of the interval's draws.
    """
    known_KQ = np.isfinite(predicted_KQ) & np.isfinite(measured_KQ)
    slope = _slope(predicted_KQ, measured_KQ, known_KQ, seed)
    if slope is None:
        return None
    p_KQ, m_KQ = (_centred(one, known_KQ) for one in (predicted_KQ, measured_KQ))
    total = float((m_KQ**2).sum())
    left = float(((m_KQ - slope.mean * p_KQ) ** 2).sum())
    p, m = p_KQ[known_KQ], m_KQ[known_KQ]
    sizes_KQ = np.abs(np.where(known_KQ, predicted_KQ, 0.0))
    order = np.argsort(sizes_KQ, axis=None, kind="stable")
    order = order[known_KQ.ravel()[order]]
    bins = []
    for places in np.array_split(order, max(1, min(_BINS, len(order) // _FEWEST_IN_A_BIN))):
        inside_KQ = np.zeros(p_KQ.shape, dtype=np.bool_)
        inside_KQ.ravel()[places] = True
        own = _slope(predicted_KQ, measured_KQ, inside_KQ, seed)
        if own is None:
            continue
        sizes = sizes_KQ[inside_KQ]
        holds = own.excludes_zero and own.overlaps(slope)
        bins.append(Bin(float(sizes.min()), float(sizes.max()), len(places), own, holds))
    rank = float(spearman(p[:, None], m[:, None])[0])
    r_squared = 1 - left / total if total else float("nan")
    some = np.random.Generator(np.random.Philox(seed)).permutation(len(p))[:_DRAWN]
    pairs = tuple(zip(p[some].tolist(), m[some].tolist(), strict=True))
    return Calibration(slope, r_squared, rank, len(p), tuple(bins), pairs)


def _centred(values_KQ: NDArray[np.float64], inside_KQ: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Of the pairs inside, values less the mean of their query's; zero elsewhere."""
    n_Q = np.maximum(inside_KQ.sum(axis=0), 1)
    mean_Q = np.where(inside_KQ, values_KQ, 0.0).sum(axis=0) / n_Q
    return np.where(inside_KQ, values_KQ - mean_Q, 0.0)


def _slope(
    predicted_KQ: NDArray[np.float64],
    measured_KQ: NDArray[np.float64],
    inside_KQ: NDArray[np.bool_],
    seed: int,
) -> Interval | None:
    """Of the pairs inside, beside each other; its `n` is how many trainings have any.

    None where no query has two trainings inside that are predicted to differ.
    """
    p_KQ, m_KQ = (_centred(one, inside_KQ) for one in (predicted_KQ, measured_KQ))
    some_K = inside_KQ.any(axis=1)
    products_K, squares_K = (p_KQ * m_KQ).sum(axis=1)[some_K], (p_KQ**2).sum(axis=1)[some_K]
    if not squares_K.sum() > 0:
        return None
    products_B, squares_B = draws(np.stack([products_K, squares_K]), seed)
    low, high = percentiles(products_B[squares_B > 0] / squares_B[squares_B > 0])
    return Interval(float(products_K.sum() / squares_K.sum()), low, high, len(squares_K))
