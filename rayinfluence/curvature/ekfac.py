"""The EK-FAC operator: G + lambda I in the Kronecker-factored eigenbasis of each module.

O output width, J input width (with the bias column). Source: George et al. 2018; Grosse et al.
2023, equations 18-21 (with Q_S^T V Q_A, the form consistent with A = Q_A diag(.) Q_A^T).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from rayinfluence.errors import NumericsError

_PARTS = ("inputs_basis", "outputs_basis", "inputs_eigenvalues", "outputs_eigenvalues", "moments")


@dataclass(frozen=True)
class ModuleFactors:
    """The factors of one module.

    Attributes:
        inputs_basis: Q_A [J, J], eigenvectors of A in columns.
        outputs_basis: Q_S [O, O], eigenvectors of S in columns.
        inputs_eigenvalues: of A, per token [J], float64.
        outputs_eigenvalues: of S, per token [O], float64.
        moments: Lambda [O, J], per sequence, float64.
    """

    inputs_basis: Tensor
    outputs_basis: Tensor
    inputs_eigenvalues: Tensor
    outputs_eigenvalues: Tensor
    moments: Tensor

    def __post_init__(self) -> None:
        d_out, columns = self.moments.shape
        expected = {
            "inputs_basis": (columns, columns),
            "outputs_basis": (d_out, d_out),
            "inputs_eigenvalues": (columns,),
            "outputs_eigenvalues": (d_out,),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise NumericsError(f"{name} must have shape {shape}, as Lambda has; got {found}.")

    def rotate(self, gradient_OJ: Tensor) -> Tensor:
        """Q_S^T V Q_A [O, J]."""
        return self.outputs_basis.T @ gradient_OJ @ self.inputs_basis

    def rotate_back(self, coordinates_OJ: Tensor) -> Tensor:
        """Q_S C Q_A^T [O, J]."""
        return self.outputs_basis @ coordinates_OJ @ self.inputs_basis.T


class EKFAC:
    """A linear operator on the gradients of the tracked modules, block-diagonal over modules.

    Args:
        factors: by module name.
        damping_scale: lambda = damping_scale * mean(Lambda) of each module.
        damping: an absolute lambda for all modules, instead.
    """

    def __init__(
        self,
        factors: Mapping[str, ModuleFactors],
        *,
        damping_scale: float = 0.1,
        damping: float | None = None,
    ) -> None:
        self.factors = dict(factors)
        self.damping = {
            name: damping if damping is not None else damping_scale * float(module.moments.mean())
            for name, module in self.factors.items()
        }
        for name, value in self.damping.items():
            if not 0.0 < value < float("inf"):
                raise NumericsError(
                    f"the damping of module {name} is {value}: its Lambda is zero or not finite. "
                    "Fit on "
                    "more sequences, leave the module out, or set an absolute `damping`."
                )

    def solve(self, name: str, gradient_OJ: Tensor) -> Tensor:
        """(G + lambda I)^-1 V [O, J] for one module; in the dtype of V, divided in float64."""
        module = self.factors[name]
        inverse = (module.moments + self.damping[name]).reciprocal().to(gradient_OJ.dtype)
        return module.rotate_back(module.rotate(gradient_OJ) * inverse)

    def apply(self, name: str, gradient_OJ: Tensor) -> Tensor:
        """(G + lambda I) V [O, J] for one module."""
        module = self.factors[name]
        damped = (module.moments + self.damping[name]).to(gradient_OJ.dtype)
        return module.rotate_back(module.rotate(gradient_OJ) * damped)

    def to_tensors(self) -> dict[str, Tensor]:
        """The factors as named tensors: ``<module>/<part>``."""
        return {
            f"{name}/{part}": getattr(module, part)
            for name, module in self.factors.items()
            for part in _PARTS
        }

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        damping_scale: float = 0.1,
        damping: float | None = None,
    ) -> Self:
        """The inverse of :meth:`to_tensors`."""
        names = [key.rsplit("/", 1)[0] for key in tensors if key.endswith("/moments")]
        factors = {
            name: ModuleFactors(**{part: tensors[f"{name}/{part}"] for part in _PARTS})
            for name in names
        }
        return cls(factors, damping_scale=damping_scale, damping=damping)


def kfac_factors(module: ModuleFactors, n_tokens: int, n_sequences: int) -> ModuleFactors:
    """K-FAC as a special case: Lambda = (n_tokens / n_sequences) outer(eig S, eig A).

    A and S are per token and Lambda is per sequence, hence the ratio.
    """
    product = torch.outer(module.outputs_eigenvalues, module.inputs_eigenvalues)
    return replace(module, moments=product * (n_tokens / n_sequences))
