"""Leaving out: what a sequence, or a group of them, did to each query, by training without it.

    effect_gq = f_q(trained on all) - f_q(trained without g),      f_q = log p(completion | prompt)

Positive: g makes the completion more likely. Both trainings have the same seed, so that what the
seed does mostly falls out; what is left of it is in the standard error, over seeds. Of a single
sequence it is mostly larger than the effect, which is why groups (a source, an author) are left
out.

A group's score is the sum of its members' (influence adds up to first order), and score / N the
change in nats that influence functions predict where scores have that unit (N sequences in
training).

The two are not the same thing even where everything is exact. Of a ridge regression, leaving out
changes a prediction by the influence function's value times 1 / (1 - h), where h is the leverage of
what is left out: influence is what is predicted of a sequence that weighs little.

G what is left out, Q query, R seed, N sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.influence.correlations import pearson, spearman


@dataclass(frozen=True)
class Effects:
    """What was measured.

    Attributes:
        mean_GQ: effects, in nats, the mean over seeds.
        error_GQ: their standard errors; NaN of one seed.
    """

    mean_GQ: NDArray[np.float64]
    error_GQ: NDArray[np.float64]

    @property
    def resolved(self) -> float:
        """The share of effects that are more than two standard errors from zero; NaN of one."""
        if np.isnan(self.error_GQ).all():
            return float("nan")
        return float((np.abs(self.mean_GQ) > 2 * self.error_GQ).mean())


def effects(full_RQ: NDArray[np.float64], without_RGQ: NDArray[np.float64]) -> Effects:
    """Effects of what was left out.

    Args:
        full_RQ: f after training on all, by seed, in nats.
        without_RGQ: f after training without each, by the same seeds.
    """
    found_RGQ = full_RQ[:, None] - without_RGQ
    n_seeds = len(found_RGQ)
    mean_GQ: NDArray[np.float64] = found_RGQ.mean(axis=0)
    if n_seeds == 1:
        return Effects(mean_GQ, np.full_like(mean_GQ, np.nan))
    return Effects(mean_GQ, found_RGQ.std(axis=0, ddof=1) / np.sqrt(n_seeds))


def group_sums(
    weights_GN: NDArray[np.float32], scores_NQ: NDArray[np.float32] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sums of scores over what each training left out [G, Q]."""
    found: NDArray[np.float64] = (1.0 - weights_GN.astype(np.float64)) @ scores_NQ.astype(
        np.float64
    )
    return found


@dataclass(frozen=True)
class Agreement:
    """How group sums agree with what was measured, of each query over groups; NaN as in `pearson`.

    Attributes:
        spearman_Q: of ranks.
        pearson_Q: of values; the scale of scores plays no part in either.
    """

    spearman_Q: NDArray[np.float64]
    pearson_Q: NDArray[np.float64]


def agreement(sums_GQ: NDArray[np.float64], measured_GQ: NDArray[np.float64]) -> Agreement:
    """Compare sums of scores with effects, both by group and query."""
    return Agreement(spearman(sums_GQ, measured_GQ), pearson(sums_GQ, measured_GQ))
