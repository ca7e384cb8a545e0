"""Methods that differ only in the linear map between a query's gradient and inner products.

| method | (G + lambda I)^-1 | source |
| --- | --- | --- |
| ekfac | EK-FAC | George et al. 2018; Grosse et al. 2023 |
| kfac | K-FAC: the same with Lambda from eigenvalues | Martens & Grosse 2015 |
| gradient_product | the identity | TracIn at one checkpoint: Pruthi et al. 2020 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors, kfac_factors
from rayinfluence.curvature.solver import Identity, Solver
from rayinfluence.errors import ConfigError

#: Methods that need no factors.
WITHOUT_CURVATURE = ("gradient_product",)


@dataclass(frozen=True)
class Fitted:
    """What the solver of a module is made of.

    Attributes:
        name: of the module.
        bias: whether it has one.
        factors: of the module, or None for methods without curvature.
        n_tokens, n_sequences: that they were fitted on.
        damping_scale, damping: see :class:`EKFAC`.
    """

    name: str
    bias: bool
    factors: ModuleFactors | None
    n_tokens: int
    n_sequences: int
    damping_scale: float
    damping: float | None

    def ekfac(self, factors: ModuleFactors) -> Solver:
        """EK-FAC with these factors."""
        scale = self.damping_scale
        return EKFAC(factors, self.name, damping_scale=scale, damping=self.damping)


def _ekfac(fitted: Fitted) -> Solver:
    assert fitted.factors is not None
    return fitted.ekfac(fitted.factors)


def _kfac(fitted: Fitted) -> Solver:
    assert fitted.factors is not None
    return fitted.ekfac(kfac_factors(fitted.factors, fitted.n_tokens, fitted.n_sequences))


def _gradient_product(fitted: Fitted) -> Solver:
    return Identity(fitted.bias)


SOLVERS: Mapping[str, Callable[[Fitted], Solver]] = {
    "ekfac": _ekfac,
    "kfac": _kfac,
    "gradient_product": _gradient_product,
}


def solver(method: str, fitted: Fitted) -> Solver:
    """The operator of a method, for one module.

    Raises:
        ConfigError: there is no such method.
    """
    if method not in SOLVERS:
        raise ConfigError(f"scan.methods: there is no method {method!r}.")
    return SOLVERS[method](fitted)
