"""The linear datamodeling score: does adding scores up predict models that were trained on less?

Park et al. 2023 (TRAK, section 2): of models that were trained on subsets of the corpus, how a
query came out is compared with what scores say it should. A sequence has weight 0 in a subset where
it was dropped, 1 where it was kept and 2 where it was seen twice, and for subset s and query q

    predicted_sq = sum over n   (w_sn - 1) I(n, q)
    measured_sq  = f_q of the model trained on s,     f_q = log p(completion | prompt)

so that dropping proponents (I > 0) predicts a lower f. LDS_q is Spearman's rank correlation of the
two over subsets: scale and unit of scores play no part. Where a subset was trained with several
seeds, measured is the mean over them.

The noise ceiling: training with another seed gives another f, which no prediction from the data can
follow. Where f = (what the subset does) + (what the seed does), two seeds correlate over subsets by
the share of the first in the variance of one training, r; by Spearman (1910) and Brown (1910) its
share in the mean of R seeds is R r / (1 + (R - 1) r), and a prediction that knows what the subset
does, and nothing else, correlates with that mean by

    ceiling = sqrt(R r / (1 + (R - 1) r))

Of two seeds this is the split-half reliability; of more, r is the mean over all pairs of seeds.
Here r is of ranks and the mean over queries, which makes the formula an approximation; below zero,
where nothing of the subset is to be seen, it is taken for zero. One seed has no ceiling.

S subset, N sequence, Q query, R seed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rayinfluence.evaluation.intervals import mean_interval
from rayinfluence.influence.correlations import spearman
from rayinfluence.storage.results.evaluated import Interval

#: Of fewer, a jackknife says nothing.
_FEWEST_FOLDS = 3


def by_seed(subsets_T: Sequence[Hashable], seeds_T: Sequence[int]) -> NDArray[np.int64]:
    """Trainings put in order: the places of those on each subset with each seed [R, S].

    Seeds ascend, and subsets are in the order in which they first come. A subset that was not
    trained with every seed that occurs is left out, as means over more and over fewer seeds do not
    compare.

    Args:
        subsets_T: which subset a training was on.
        seeds_T: of the training.
    """
    trainings = zip(subsets_T, seeds_T, strict=True)
    place = {training: t for t, training in enumerate(trainings)}
    seeds = sorted(set(seeds_T))
    whole = [s for s in dict.fromkeys(subsets_T) if all((s, seed) in place for seed in seeds)]
    found = [[place[subset, seed] for subset in whole] for seed in seeds]
    return np.array(found, dtype=np.int64).reshape(len(seeds), len(whole))


def predicted(
    weights_SN: NDArray[np.float32], scores_NQ: NDArray[np.float32] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """What scores say of each subset, up to a constant: sum over n of (w - 1) I [S, Q].

    Exact zeros of w - 1 take no part: a score that is missing (NaN) for a sequence that is in all
    subsets is no matter.
    """
    changed_SN = weights_SN.astype(np.float64) - 1.0
    some_N = (changed_SN != 0).any(axis=0)
    found: NDArray[np.float64] = changed_SN[:, some_N] @ scores_NQ[some_N].astype(np.float64)
    return found


def linear_scores(
    predicted_SQ: NDArray[np.float64], values_RSQ: NDArray[np.float64]
) -> NDArray[np.float64]:
    """LDS of each query [Q]; NaN where all predictions, or all that was measured, are equal.

    Args:
        predicted_SQ: for each subset.
        values_RSQ: f after training on it, by seed, in nats.
    """
    return spearman(predicted_SQ, values_RSQ.mean(axis=0))


def error_of_subsets(
    predicted_SQ: NDArray[np.float64],
    values_RSQ: NDArray[np.float64],
    folds_S: Sequence[int],
) -> float | None:
    """How far other subsets would move the mean LDS over queries: its standard error.

    By the jackknife (Tukey 1958): queries were asked of the same models, so what is chance in the
    choice of subsets is in all of them alike, and no more queries make it less. None of fewer than
    three folds, and where there is no score.

    Args:
        predicted_SQ: for each subset.
        values_RSQ: f after training on it, by seed, in nats.
        folds_S: equal of subsets that were drawn together, which are left out together.
    """
    folds = np.array(folds_S)
    kept = [folds != fold for fold in dict.fromkeys(folds_S)]
    if len(kept) < _FEWEST_FOLDS:
        return None
    found = [linear_scores(predicted_SQ[some], values_RSQ[:, some]) for some in kept]
    some_Q = np.isfinite(found).all(axis=0)
    if not some_Q.any():
        return None
    means = np.mean(np.array(found)[:, some_Q], axis=1)
    n = len(means)
    return float(np.sqrt((n - 1) / n * ((means - means.mean()) ** 2).sum()))


def ceiling(values_RSQ: NDArray[np.float64], seed: int = 0) -> Interval | None:
    """The most that the mean LDS of a perfect prediction could be; None of one seed.

    Args:
        values_RSQ: f after training on each subset, by seed, in nats.
        seed: of the interval's draws.
    """
    n_seeds = len(values_RSQ)
    pairs = [
        spearman(values_RSQ[one], values_RSQ[other])
        for one, other in combinations(range(n_seeds), 2)
    ]
    found = mean_interval(np.mean(pairs, axis=0), seed) if pairs else None
    if found is None:
        return None

    def of(r: float | None) -> float | None:
        if r is None:
            return None
        r = max(r, 0.0)
        return float(np.sqrt(n_seeds * r / (1 + (n_seeds - 1) * r)))

    # It rises with r, so that the interval's ends are its values at the ends.
    mean = of(found.mean)
    assert mean is not None
    return Interval(mean, of(found.low), of(found.high), found.n)
