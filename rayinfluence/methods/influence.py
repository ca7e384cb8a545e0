"""Influence functions: the inverse of a curvature between the gradients.

| method | (G + lambda I)^-1 | source |
| --- | --- | --- |
| ekfac | EK-FAC | George et al. 2018; Grosse et al. 2023 |
| kfac | K-FAC: the same with Lambda from eigenvalues | Martens & Grosse 2015 |
| koh_liang | that of the Hessian or the Gauss-Newton matrix itself, solved | Koh & Liang 2017 |
| diagonal | the diagonal of the Fisher matrix of the weights | Kirkpatrick et al. 2017 |
"""

from __future__ import annotations

from rayinfluence.curvature.ekfac import kfac_factors
from rayinfluence.curvature.solver import Solver
from rayinfluence.methods.method import FactorKind, Fitted
from rayinfluence.storage.results.meaning import Meaning


class EkfacInfluence:
    """Influence by EK-FAC."""

    factors: FactorKind | None = "ekfac"
    normalised = False
    meaning = Meaning(
        "an estimate, by EK-FAC influence functions: a linear prediction of what training on a "
        "sequence once more would change. Nothing was retrained."
    )

    def solver(self, fitted: Fitted) -> Solver:
        """With the moments in the eigenbasis."""
        return fitted.ekfac()


class KohLiangInfluence:
    """Influence by a solve of its own, which begins from nothing.

    What stands here is EK-FAC, whose Lambda says how large lambda is, and how far it would be off.
    """

    factors: FactorKind | None = "ekfac"
    normalised = False
    meaning = Meaning(
        "an estimate, by influence functions as Koh & Liang 2017 have them: a linear prediction of "
        "what training on a sequence once more would change. Nothing was retrained."
    )

    def solver(self, fitted: Fitted) -> Solver:
        """With the moments in the eigenbasis."""
        return fitted.ekfac()


class KfacInfluence:
    """Influence by K-FAC."""

    factors: FactorKind | None = "ekfac"
    normalised = False
    meaning = Meaning(
        "an estimate, by K-FAC influence functions, with a coarser curvature than EK-FAC: a linear "
        "prediction of what training on a sequence once more would change. Nothing was retrained."
    )

    def solver(self, fitted: Fitted) -> Solver:
        """With products of eigenvalues in the place of moments."""
        return fitted.ekfac(lambda of: kfac_factors(of.factors, of.n_rows, of.n_sequences))


class DiagonalInfluence:
    """Influence by the diagonal of the Fisher matrix: the mean over sequences of D^2."""

    factors: FactorKind | None = "diagonal"
    normalised = False
    meaning = Meaning(
        "an estimate, by influence functions with the diagonal of the Fisher matrix, which takes "
        "each weight for itself and is coarser than EK-FAC: a linear prediction of what training "
        "on a sequence once more would change. Nothing was retrained."
    )

    def solver(self, fitted: Fitted) -> Solver:
        """With moments in the basis of the weights, which is EK-FAC between identities."""
        return fitted.ekfac()
