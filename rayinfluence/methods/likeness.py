"""Likeness of two gradients, without curvature.

| method | score | source |
| --- | --- | --- |
| gradient_product | <grad f_q, grad log p(z)> | TracIn at one checkpoint: Pruthi et al. 2020 |
| cosine | the same over the norms of both | Hanawa et al. 2021 |
"""

from __future__ import annotations

from rayinfluence.curvature.solver import Identity, Solver
from rayinfluence.methods.method import FactorKind, Fitted
from rayinfluence.storage.results.meaning import ANY_UNIT, Meaning


class GradientProduct:
    """The inner product of the gradients."""

    factors: FactorKind | None = None
    normalised = False
    meaning = Meaning(
        "an estimate, by the product of gradients, without curvature: a likeness of two gradients, "
        "of which only the order means something. Nothing was retrained.",
        ANY_UNIT,
        predicts=False,
    )

    def solver(self, fitted: Fitted) -> Solver:
        """No map at all."""
        return Identity(fitted.bias)


class Cosine:
    """The cosine of the angle between the gradients, over all tracked modules at once.

    A sequence with a large gradient is not ahead for that.
    """

    factors: FactorKind | None = None
    normalised = True
    meaning = Meaning(
        "an estimate, by the cosine of two gradients, without curvature: from -1 to 1, whatever "
        "their lengths are. Nothing was retrained.",
        "1: a cosine",
        predicts=False,
    )

    def solver(self, fitted: Fitted) -> Solver:
        """No map at all."""
        return Identity(fitted.bias)
