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

import torch
from torch import Tensor

from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors, kfac_factors
from rayinfluence.errors import ConfigError
from rayinfluence.influence.lowrank import low_rank

#: Methods that need no factors.
WITHOUT_CURVATURE = ("gradient_product",)


class Preconditioner(Protocol):
    """A linear map of gradients D = sum_t g_t a_t^T, module by module.

    T token, I input width, J = I + 1 where there is a bias, O output width, R rank.
    """

    @property
    def damping(self) -> Mapping[str, float]:
        """The lambda of every module; empty where there is no curvature to damp."""

    def solve_tokens(
        self, name: str, inputs_TI: Tensor, grads_TO: Tensor, rank: int | None, seed: int
    ) -> dict[str, Tensor]:
        """The preconditioned gradient of a module.

        Returns:
            ``left`` [O, R] and ``right`` [J, R], whose product it nearly is, or ``dense`` [O, J].
        """


class Identity:
    """Leaves gradients as they are.

    Args:
        bias: whether a module has a bias.
    """

    def __init__(self, bias: Mapping[str, bool]) -> None:
        self.damping: Mapping[str, float] = {}
        self._bias = dict(bias)

    def solve_tokens(
        self, name: str, inputs_TI: Tensor, grads_TO: Tensor, rank: int | None, seed: int
    ) -> dict[str, Tensor]:
        """The gradient itself."""
        gradient_OJ = grads_TO.T @ inputs_TI
        if self._bias[name]:
            gradient_OJ = torch.cat([gradient_OJ, grads_TO.sum(dim=0)[:, None]], dim=1)
        if rank is None:
            return {"dense": gradient_OJ}
        left, right = low_rank(gradient_OJ, rank, seed)
        return {"left": left, "right": right}


class Curved:
    """Applies an EK-FAC operator; cuts to low rank in its basis, and rotates only what is left."""

    def __init__(self, operator: EKFAC) -> None:
        self.operator = operator
        self.damping: Mapping[str, float] = operator.damping

    def solve_tokens(
        self, name: str, inputs_TI: Tensor, grads_TO: Tensor, rank: int | None, seed: int
    ) -> dict[str, Tensor]:
        """(G + lambda I)^-1 D."""
        coordinates_OJ = self.operator.solve_in_basis(name, inputs_TI, grads_TO)
        module = self.operator.factors[name]
        if rank is None:
            return {"dense": module.rotate_back(coordinates_OJ)}
        left, right = module.rotate_back_low_rank(*low_rank(coordinates_OJ, rank, seed))
        return {"left": left, "right": right}


def preconditioner(
    method: str,
    factors: Mapping[str, ModuleFactors],
    bias: Mapping[str, bool],
    *,
    damping_scale: float,
    damping: float | None,
    n_tokens: int,
    n_sequences: int,
) -> Preconditioner:
    """The operator of a method.

    Args:
        method: its name, as in ``scan.methods``.
        factors: by module; empty for methods without curvature.
        bias: whether a module has a bias.
        damping_scale: see :class:`EKFAC`.
        damping: see :class:`EKFAC`.
        n_tokens: tokens that the factors were fitted on.
        n_sequences: sequences that the factors were fitted on.
    """
    if method == "gradient_product":
        return Identity(bias)
    if method == "kfac":
        factors = {
            name: kfac_factors(module, n_tokens, n_sequences) for name, module in factors.items()
        }
    elif method != "ekfac":
        raise ConfigError(f"scan.methods: there is no method {method!r}.")
    return Curved(EKFAC(factors, damping_scale=damping_scale, damping=damping))
