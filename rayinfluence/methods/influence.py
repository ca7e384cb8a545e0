"""Influence functions: the inverse of a curvature between the gradients.

| method | (G + lambda I)^-1 | source |
| --- | --- | --- |
| ekfac | EK-FAC | George et al. 2018; Grosse et al. 2023 |
| kfac | K-FAC: the same with Lambda from eigenvalues | Martens & Grosse 2015 |
"""

from __future__ import annotations

from rayinfluence.curvature.ekfac import kfac_factors
from rayinfluence.curvature.solver import Solver
from rayinfluence.methods.method import Fitted
from rayinfluence.storage.results.meaning import Meaning


class EkfacInfluence:
    """Influence by EK-FAC."""

    needs_factors = True
    normalised = False
    meaning = Meaning(
        "an estimate, by EK-FAC influence functions: a linear prediction of what training on a "
        "sequence once more would change. Nothing was retrained."
    )

    def solver(self, fitted: Fitted) -> Solver:
        """With the moments in the eigenbasis."""
        return fitted.ekfac()


class KfacInfluence:
    """Influence by K-FAC."""

    needs_factors = True
    normalised = False
    meaning = Meaning(
        "an estimate, by K-FAC influence functions, with a coarser curvature than EK-FAC: a linear "
        "prediction of what training on a sequence once more would change. Nothing was retrained."
    )

    def solver(self, fitted: Fitted) -> Solver:
        """With products of eigenvalues in the place of moments."""
        return fitted.ekfac(lambda of: kfac_factors(of.factors, of.n_rows, of.n_sequences))
