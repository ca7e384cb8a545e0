"""How sure a value is: of draws, of seeds of training, and of both.

Draws and seeds are two sources of error. What draws do is seen in how much they differ, of the mean
over seeds; what seeds do in how values by each seed differ, of the same draws. Variances add up,
and the interval reaches by Student's quantile of the degrees of freedom that Welch (1947) and
Satterthwaite (1946) give a sum of variances. What draws and seeds do together is in both, so that
intervals are rather too long than too short.

R seed, G group, U utility.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayinfluence.evaluation.intervals import student
from rayinfluence.evaluation.shapley.estimators import Estimate
from rayinfluence.storage.results.valued import GroupValue


def group_values(found: Estimate) -> list[list[GroupValue]]:
    """Values of each group for each utility, with intervals where something is known of errors."""
    n_seeds = len(found.values_RGQ)
    mean_GU = found.values_RGQ.mean(axis=0)
    seeds_GU = np.full_like(mean_GU, np.nan)
    if n_seeds > 1:
        seeds_GU = found.values_RGQ.std(axis=0, ddof=1) / np.sqrt(n_seeds)
    rows = zip(
        *map(np.ndarray.tolist, (mean_GU, found.error_GQ, found.freedom_GQ, seeds_GU)), strict=True
    )
    return [
        [
            _value(mean, (of_draws, freedom), (of_seeds, n_seeds - 1.0))
            for mean, of_draws, freedom, of_seeds in zip(*row, strict=True)
        ]
        for row in rows
    ]


def _value(mean: float, draws: tuple[float, float], seeds: tuple[float, float]) -> GroupValue:
    """A value with its interval.

    Args:
        mean: the value.
        draws: standard error that draws give it, and its degrees of freedom; 0 of no draws.
        seeds: the same of seeds; NaN of one.
    """
    told = (draws[0], None if seeds[1] < 1 else seeds[0])
    known = [one for one in (draws, seeds) if one[1] > 0]
    if not known:
        return GroupValue(mean, None, None, *told)
    half = _half(known)
    return GroupValue(mean, mean - half, mean + half, *told)


def _half(known: Sequence[tuple[float, float]]) -> float:
    """Half of an interval, of errors and their degrees of freedom."""
    variance = sum(error**2 for error, _ in known)
    if not variance:
        return 0.0
    # Divided first: the fourth power of a small error is no number.
    shares = [(error**2 / variance, freedom) for error, freedom in known]
    freedom = 1 / sum(share**2 / n for share, n in shares)
    return student(max(1, int(freedom + 1e-9))) * float(np.sqrt(variance))
