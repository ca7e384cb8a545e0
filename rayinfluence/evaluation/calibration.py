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

The interval is by the jackknife over trainings (Tukey 1958): what the slope is without each of
them, with all of its queries, which share the training's chance. Of K trainings and slopes s_k

    slope +- t sqrt((K - 1) / K sum over k (s_k - mean s)^2)

with t of Student's distribution with K - 1 degrees of freedom. A bootstrap over as few trainings is
too short.

Where the slope holds: pairs are put into five bins of equally many by |predicted|, or fewer. A bin
shows the slope where its own has an interval that excludes zero and overlaps with that of all
pairs, which excludes zero, too. Bins beside each other that do are the range; small predictions
drown in what retraining does by itself, and large ones leave what is linear. The slope of all pairs
is mostly that of the largest predictions, whose squares are most of the sum.

K training with an added copy, Q query.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayinfluence.evaluation.intervals import student
from rayinfluence.influence.correlations import spearman
from rayinfluence.storage.results.evaluated import Bin, Calibration, Interval

_BINS, _FEWEST_IN_A_BIN = 5, 10
#: Pairs that are drawn.
_DRAWN = 1000


def calibration(
    predicted_KQ: NDArray[np.float64], measured_KQ: NDArray[np.float64]
) -> Calibration | None:
    """Compare sizes; None of fewer than two trainings, or where all predictions are equal.

    Args:
        predicted_KQ: changes in nats; NaN for pairs of which there is no prediction.
        measured_KQ: f, or its change from any one model, in nats.
    """
    known_KQ = np.isfinite(predicted_KQ) & np.isfinite(measured_KQ)
    slope = _slope(predicted_KQ, measured_KQ, known_KQ)
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
        own = _slope(predicted_KQ, measured_KQ, inside_KQ)
        if own is None:
            continue
        sizes = sizes_KQ[inside_KQ]
        holds = slope.excludes_zero and own.excludes_zero and own.overlaps(slope)
        bins.append(Bin(float(sizes.min()), float(sizes.max()), len(places), own, holds))
    rank = float(spearman(p[:, None], m[:, None])[0])
    r_squared = 1 - left / total if total else float("nan")
    some = np.random.Generator(np.random.Philox(0)).permutation(len(p))[:_DRAWN]
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
) -> Interval | None:
    """Of the pairs inside, beside each other; its `n` is how many trainings have any.

    None where no query has two trainings inside that are predicted to differ; without an interval
    where that is so without one of the trainings.
    """
    some_K = inside_KQ.any(axis=1)
    p_KQ, m_KQ, inside_KQ = predicted_KQ[some_K], measured_KQ[some_K], inside_KQ[some_K]
    slope = _fitted(p_KQ, m_KQ, inside_KQ)
    if slope is None:
        return None
    n = len(inside_KQ)
    others = (np.arange(n) != k for k in range(n))
    left = [_fitted(p_KQ[some], m_KQ[some], inside_KQ[some]) for some in others]
    known = np.array([one for one in left if one is not None])
    if len(known) < n:
        return Interval(slope, None, None, n)
    error = float(np.sqrt((n - 1) / n * ((known - known.mean()) ** 2).sum()))
    half = student(n - 1) * error
    return Interval(slope, slope - half, slope + half, n)


def _fitted(
    predicted_KQ: NDArray[np.float64],
    measured_KQ: NDArray[np.float64],
    inside_KQ: NDArray[np.bool_],
) -> float | None:
    """The slope itself."""
    p_KQ, m_KQ = (_centred(one, inside_KQ) for one in (predicted_KQ, measured_KQ))
    squares = float((p_KQ**2).sum())
    return float((p_KQ * m_KQ).sum()) / squares if squares > 0 else None
