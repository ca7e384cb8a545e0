"""The EK-FAC operator: G + lambda I in the Kronecker-factored eigenbasis of each module.

O output width, J input width (with the bias column), T token, R rank. Source: George et al. 2018;
Grosse et al. 2023, equations 18-21 (with Q_S^T V Q_A, the form consistent with A = Q_A diag(.)
Q_A^T).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.sums import rotated_gradients
from rayinfluence.errors import NumericsError


@dataclass(frozen=True)
class ModuleFactors:
    """The factors of one module.

    Attributes:
        inputs_basis: Q_A [J, J], eigenvectors of A in columns, in blocks.
        outputs_basis: Q_S [O, O], eigenvectors of S in columns, in blocks.
        inputs_eigenvalues: of A, per token [J], float64.
        outputs_eigenvalues: of S, per token [O], float64.
        moments: Lambda [O, J], per sequence, float64.
    """

    inputs_basis: Basis
    outputs_basis: Basis
    inputs_eigenvalues: Tensor
    outputs_eigenvalues: Tensor
    moments: Tensor

    def __post_init__(self) -> None:
        d_out, columns = self.moments.shape
        found = {
            "inputs_basis": (self.inputs_basis.width, columns),
            "outputs_basis": (self.outputs_basis.width, d_out),
            "inputs_eigenvalues": (len(self.inputs_eigenvalues), columns),
            "outputs_eigenvalues": (len(self.outputs_eigenvalues), d_out),
        }
        for name, (width, expected) in found.items():
            if width != expected:
                raise NumericsError(
                    f"{name} must be {expected} wide, as Lambda is; got {width}: these factors are "
                    "not of one module."
                )

    def rotate(self, gradient_OJ: Tensor) -> Tensor:
        """Q_S^T V Q_A [O, J]."""
        return self.inputs_basis.rotate(self.outputs_basis.rotate(gradient_OJ.T).T)

    def rotate_back(self, coordinates_OJ: Tensor) -> Tensor:
        """Q_S C Q_A^T [O, J]."""
        return self.inputs_basis.rotate_back(self.outputs_basis.rotate_back(coordinates_OJ.T).T)

    def rotate_back_low_rank(self, left_OR: Tensor, right_JR: Tensor) -> tuple[Tensor, Tensor]:
        """Q_S U [O, R] and Q_A V [J, R], for coordinates C = U V^T."""
        return (
            self.outputs_basis.rotate_back(left_OR.T).T,
            self.inputs_basis.rotate_back(right_JR.T).T,
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """All parts by name, the bases block by block."""
        return {
            **self.inputs_basis.to_tensors("inputs_basis"),
            **self.outputs_basis.to_tensors("outputs_basis"),
            "inputs_eigenvalues": self.inputs_eigenvalues,
            "outputs_eigenvalues": self.outputs_eigenvalues,
            "moments": self.moments,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of :meth:`to_tensors`."""
        return cls(
            Basis.from_tensors(tensors, "inputs_basis"),
            Basis.from_tensors(tensors, "outputs_basis"),
            tensors["inputs_eigenvalues"],
            tensors["outputs_eigenvalues"],
            tensors["moments"],
        )


def module_damping(moments_OJ: Tensor, damping_scale: float, damping: float | None) -> float:
    """The damping of one module: absolute where given, else damping_scale * mean(Lambda)."""
    return damping if damping is not None else damping_scale * float(moments_OJ.mean())


class EKFAC:
    """A linear operator on the gradients of the tracked modules, block-diagonal over modules.

    Args:
        factors: by module name.
        damping_scale: lambda = damping_scale * mean(Lambda) of each module.
        damping: an absolute lambda for all modules, instead.

    Raises:
        NumericsError: a factor is NaN or infinite, or the damping is not positive.
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
            name: module_damping(module.moments, damping_scale, damping)
            for name, module in self.factors.items()
        }
        for name, module in self.factors.items():
            wrong = [
                part
                for part, tensor in module.to_tensors().items()
                if not bool(torch.isfinite(tensor).all())
            ]
            if wrong:
                raise NumericsError(
                    f"the factors of module {name} hold NaN or infinity in {wrong[0]}; delete them "
                    "(`rayinfluence clean --stage factors`) and fit again, in a wider dtype if "
                    "they overflowed."
                )
            if not self.damping[name] > 0.0:
                raise NumericsError(
                    f"the damping of module {name} is {self.damping[name]}: its Lambda is zero. "
                    "Fit on more sequences, leave the module out, or set an absolute `damping`."
                )

    def solve(self, name: str, gradient_OJ: Tensor) -> Tensor:
        """(G + lambda I)^-1 V [O, J] for one module; in the dtype of V, divided in float64."""
        module = self.factors[name]
        return module.rotate_back(module.rotate(gradient_OJ) * self._inverse(name, gradient_OJ))

    def apply(self, name: str, gradient_OJ: Tensor) -> Tensor:
        """(G + lambda I) V [O, J] for one module."""
        module = self.factors[name]
        damped = (module.moments + self.damping[name]).to(gradient_OJ.dtype)
        return module.rotate_back(module.rotate(gradient_OJ) * damped)

    def solve_in_basis(self, name: str, inputs_TI: Tensor, grads_TO: Tensor) -> Tensor:
        """(Q_S^T D Q_A) / (Lambda + lambda) [O, J] of the gradient D = sum_t g_t a_t^T.

        The basis is orthogonal, so this has the singular values of (G + lambda I)^-1 D, and it
        costs two thin rotations instead of four square ones.
        """
        module = self.factors[name]
        (rotated_BOJ,) = rotated_gradients(
            inputs_TI[None], grads_TO[None], module.inputs_basis, module.outputs_basis
        )
        return rotated_BOJ[0] * self._inverse(name, rotated_BOJ)

    def _inverse(self, name: str, like: Tensor) -> Tensor:
        return (self.factors[name].moments + self.damping[name]).reciprocal().to(like.dtype)


def kfac_factors(module: ModuleFactors, n_tokens: int, n_sequences: int) -> ModuleFactors:
    """K-FAC as a special case: Lambda = (n_tokens / n_sequences) outer(eig S, eig A).

    A and S are per token and Lambda is per sequence, hence the ratio.
    """
    product = torch.outer(module.outputs_eigenvalues, module.inputs_eigenvalues)
    return replace(module, moments=product * (n_tokens / n_sequences))


def factors_by_module(
    tensors: Mapping[str, Tensor], sources: Mapping[str, str]
) -> dict[str, ModuleFactors]:
    """Factors from named tensors ``<module>/<part>``.

    Args:
        tensors: modules that share their inputs have those parts under their source alone.
        sources: the source of every module's inputs.
    """
    by_module: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, part = key.rsplit("/", 1)
        by_module.setdefault(name, {})[part] = tensor
    return {
        name: ModuleFactors.from_tensors({**by_module[source], **by_module[name]})
        for name, source in sources.items()
    }
