"""A power law against other laws of the same scores, by the ratio of their likelihoods."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rayinfluence.influence.largest import Fit, Largest, log_likelihoods
from rayinfluence.influence.laws import OTHERS, Law, Vector
from rayinfluence.influence.simplex import minimise

#: At a smaller probability one of two laws is said to be better.
DECIDED = 0.1


@dataclass(frozen=True)
class Against:
    """A power law beside another one.

    Attributes:
        law: the name of the other.
        ratio: the logarithm of the ratio of likelihoods; above 0 the power law is the likelier.
        p: how probable a ratio of this size is if neither is nearer to the truth; of a law that has
            the power law as a limit, if the power law is true.
    """

    law: str
    ratio: float
    p: float

    @property
    def better(self) -> str:
        """Which one is: ``power law``, ``other``, or ``undecided``."""
        if self.p >= DECIDED:
            return "undecided"
        return "power law" if self.ratio > 0 else "other"


def against_others(fit: Fit) -> tuple[Against, ...]:
    """The power law beside each of `OTHERS`, all fitted to the same scores."""
    ours = log_likelihoods(fit.largest, fit.law.exponent, np.zeros(0))
    found = []
    for law in OTHERS:
        theirs = log_likelihoods(fit.largest, law, fitted(fit.largest, law))
        found.append(_beside(law, ours, theirs, fit.largest.counts_N.astype(np.float64)))
    return tuple(found)


def fitted(largest: Largest, law: Law) -> Vector:
    """The parameters of a law by maximum likelihood, the best of its starts."""
    n = largest.count

    def loss(at_P: Vector) -> float:
        return -float(largest.counts_N @ log_likelihoods(largest, law, at_P)) / n

    tried = [minimise(loss, np.array(start)) for start in law.starts]
    return min(tried, key=lambda one: one[1])[0]


def _beside(law: Law, ours_N: Vector, theirs_N: Vector, counts_N: Vector) -> Against:
    """Vuong 1989: z of the mean difference, or chi squared where one law is a limit of the other.

    A limit is at the border of the parameters, where chi squared finds too few differences rather
    than too many.
    """
    n = float(counts_N.sum())
    gaps_N = ours_N - theirs_N
    ratio = float(counts_N @ gaps_N)
    if law.extends:
        gain = max(0.0, -2 * ratio)
        p = math.erfc(math.sqrt(gain / 2)) if law.extends == 1 else math.exp(-gain / 2)
        return Against(law.name, ratio, p)
    spread = math.sqrt(float(counts_N @ (gaps_N - ratio / n) ** 2) / n)
    z = abs(ratio) / (spread * math.sqrt(n)) if spread else 0.0
    return Against(law.name, ratio, math.erfc(z / math.sqrt(2)))
