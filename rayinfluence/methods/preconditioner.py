"""Methods that differ only in the linear map between a query's gradient and inner products.

| method | (G + lambda I)^-1 | source |
| --- | --- | --- |
| ekfac | EK-FAC | George et al. 2018; Grosse et al. 2023 |
| kfac | K-FAC: the same with Lambda from eigenvalues | Martens & Grosse 2015 |
| gradient_product | the identity | TracIn at one checkpoint: Pruthi et al. 2020 |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from rayinfluence.curvature.ekfac import EKFAC, kfac_factors
from rayinfluence.errors import ConfigError

#: Methods that need no factors.
WITHOUT_CURVATURE = ("gradient_product",)


class Preconditioner(Protocol):
    """A linear map of gradients, module by module."""

    def solve(self, name: str, gradient_OJ: Tensor) -> Tensor:
        """The preconditioned gradient [O, J] of one module."""


class Identity:
    """Leaves gradients as they are."""

    def solve(self, name: str, gradient_OJ: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient_OJ


def preconditioner(
    method: str,
    factors: Mapping[str, Tensor],
    *,
    damping_scale: float,
    damping: float | None,
    n_tokens: int,
    n_sequences: int,
) -> Preconditioner:
    """The operator of a method.

    Args:
        method: its name, as in ``scan.methods``.
        factors: as :meth:`EKFAC.to_tensors` gives them; empty for methods without curvature.
        damping_scale: see :class:`EKFAC`.
        damping: see :class:`EKFAC`.
        n_tokens: tokens that the factors were fitted on.
        n_sequences: sequences that the factors were fitted on.
    """
    if method == "gradient_product":
        return Identity()
    operator = EKFAC.from_tensors(factors, damping_scale=damping_scale, damping=damping)
    if method == "ekfac":
        return operator
    if method == "kfac":
        weaker = {
            name: kfac_factors(module, n_tokens, n_sequences)
            for name, module in operator.factors.items()
        }
        return EKFAC(weaker, damping_scale=damping_scale, damping=damping)
    raise ConfigError(f"scan.methods: there is no method {method!r}.")
