"""Influence of each sequence on itself.

| method | score | source |
| --- | --- | --- |
| self_influence | <grad f_z, (G + lambda I)^-1 grad f_z> | Koh & Liang 2017, section 5.4 |

f_z is the log-probability of the sequence, as training counted it. The score is large where the
model can only know a sequence from that sequence: wrong labels, outliers, what was memorised.
"""

from __future__ import annotations

from rayinfluence.curvature.solver import Solver
from rayinfluence.methods.method import FactorKind, Fitted
from rayinfluence.storage.results.meaning import Meaning


class SelfInfluence:
    """Influence on itself by EK-FAC, at full rank."""

    factors: FactorKind | None = "ekfac"
    meaning = Meaning(
        "an estimate, by EK-FAC influence functions, of each sequence's influence on itself: a "
        "linear prediction of how much more likely it would be if it were seen once more (where "
        "training maximised a mean over tokens, of that mean, in nats per token). It is largest "
        "where nothing else in the corpus says the same: outliers, wrong labels, what was "
        "memorised. Nothing was retrained.",
        of_itself=True,
    )

    def solver(self, fitted: Fitted) -> Solver:
        """With the moments in the eigenbasis."""
        return fitted.ekfac()
