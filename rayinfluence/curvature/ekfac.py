"""The EK-FAC operator: G + lambda I in the Kronecker-factored eigenbasis of a module.

B sequence in batch, O output width, J input width (with the bias column), T token, R rank. Source:
George et al. 2018; Grosse et al. 2023, equations 18-21 (with Q_S^T V Q_A, the form consistent with
A = Q_A diag(.) Q_A^T).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.solver import Cut, Inverse
from rayinfluence.curvature.sums import rotated_gradients, sums_of_squares
from rayinfluence.errors import NumericsError


@dataclass(frozen=True)
class ModuleFactors:
    """The factors of one module.

    Attributes:
        inputs_basis: Q_A [J, J], eigenvectors of A in columns, in blocks.
        outputs_basis: Q_S [O, O], eigenvectors of S in columns, in blocks.
        inputs_eigenvalues: of A, per row [J], float64; rows are tokens, or those that were routed.
            None where the bases are identities and no eigenvectors: then Lambda is the diagonal of
            the Fisher matrix.
        outputs_eigenvalues: of S, per row [O], float64; or None, too.
        moments: Lambda [O, J], per sequence, float64.
    """

    inputs_basis: Basis
    outputs_basis: Basis
    inputs_eigenvalues: Tensor | None
    outputs_eigenvalues: Tensor | None
    moments: Tensor

    def __post_init__(self) -> None:
        d_out, columns = self.moments.shape
        found = {
            "inputs_basis": (self.inputs_basis.width, columns),
            "outputs_basis": (self.outputs_basis.width, d_out),
        }
        if self.inputs_eigenvalues is not None:
            found["inputs_eigenvalues"] = len(self.inputs_eigenvalues), columns
        if self.outputs_eigenvalues is not None:
            found["outputs_eigenvalues"] = len(self.outputs_eigenvalues), d_out
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
        eigenvalues = {
            "inputs_eigenvalues": self.inputs_eigenvalues,
            "outputs_eigenvalues": self.outputs_eigenvalues,
        }
        return {
            **self.inputs_basis.to_tensors("inputs_basis"),
            **self.outputs_basis.to_tensors("outputs_basis"),
            **{name: values for name, values in eigenvalues.items() if values is not None},
            "moments": self.moments,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of :meth:`to_tensors`."""
        return cls(
            Basis.from_tensors(tensors, "inputs_basis"),
            Basis.from_tensors(tensors, "outputs_basis"),
            tensors.get("inputs_eigenvalues"),
            tensors.get("outputs_eigenvalues"),
            tensors["moments"],
        )


def module_damping(moments_OJ: Tensor, damping_scale: float, damping: float | None) -> float:
    """The damping of one module: absolute where given, else damping_scale * mean(Lambda)."""
    return damping if damping is not None else damping_scale * float(moments_OJ.mean())


def damped_inverse(moments_OJ: Tensor, damping: float) -> Tensor:
    """1 / (Lambda + lambda) [O, J]; zero where there is neither, as of the pseudoinverse."""
    damped_OJ = moments_OJ + damping
    return torch.where(damped_OJ == 0, 0.0, damped_OJ.reciprocal())


class EKFAC:
    """G + lambda I of one module: a linear operator on its gradients.

    Of a module that no fitted sequence had a gradient in, Lambda is zero, and so is a lambda that
    is a part of it: its inverse is then zero, and scores leave the module out.

    Args:
        factors: of the module.
        name: of the module, for messages.
        damping_scale: lambda = damping_scale * mean(Lambda).
        damping: an absolute lambda, instead.

    Raises:
        NumericsError: a factor is NaN or infinite, or the damping is not positive.
    """

    def __init__(
        self,
        factors: ModuleFactors,
        name: str,
        *,
        damping_scale: float = 0.1,
        damping: float | None = None,
    ) -> None:
        self.factors = factors
        self.damping = module_damping(factors.moments, damping_scale, damping)
        for part, tensor in factors.to_tensors().items():
            if not bool(torch.isfinite(tensor).all()):
                raise NumericsError(
                    f"the factors of module {name} hold NaN or infinity in {part}; delete them "
                    "(`rayinfluence clean --stage factors`) and fit again, in a wider dtype if "
                    "they overflowed."
                )
        if not self.damping > 0.0 and bool(factors.moments.any()):
            raise NumericsError(
                f"the damping of module {name} is {self.damping}, and has to be above zero; set "
                "`damping_scale` or an absolute `damping`."
            )

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        """(G + lambda I) V [O, J]."""
        damped_OJ = (self.factors.moments + self.damping).to(gradient_OJ.dtype)
        return self.factors.rotate_back(self.factors.rotate(gradient_OJ) * damped_OJ)

    def inverse(self) -> Inverse:
        """(G + lambda I)^-1."""
        return _Inverse(self.factors, self.damping)


class _Inverse:
    """(G + lambda I)^-1 of one module: divided in float64, in the dtype of the gradient."""

    def __init__(self, factors: ModuleFactors, damping: float) -> None:
        self._factors = factors
        self._inverse_OJ = damped_inverse(factors.moments, damping)

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        """(G + lambda I)^-1 V [O, J]."""
        rotated_OJ = self._factors.rotate(gradient_OJ)
        return self._factors.rotate_back(rotated_OJ * self._inverse_OJ.to(rotated_OJ.dtype))

    def of_tokens(
        self, inputs_TI: Tensor, grads_TO: Tensor, cut: Cut | None = None
    ) -> dict[str, Tensor]:
        """(G + lambda I)^-1 D of the gradient D = sum_t g_t a_t^T.

        It is cut in the eigenbasis: that is orthogonal, so singular values are the same there, and
        two thin rotations take the place of four square ones.
        """
        factors = self._factors
        (rotated_BOJ,) = rotated_gradients(
            inputs_TI[None], grads_TO[None], factors.inputs_basis, factors.outputs_basis
        )
        coordinates_OJ = rotated_BOJ[0] * self._inverse_OJ.to(rotated_BOJ.dtype)
        if cut is None:
            return {"dense": factors.rotate_back(coordinates_OJ)}
        left_OR, right_JR = factors.rotate_back_low_rank(*cut(coordinates_OJ))
        return {"left": left_OR, "right": right_JR}

    def quadratic(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """Sum of (Q_S^T D Q_A)^2 / (Lambda + lambda) [B]."""
        bases = self._factors.inputs_basis, self._factors.outputs_basis
        return sums_of_squares(rotated_gradients(inputs_BTI, grads_BTO, *bases), self._inverse_OJ)


def kfac_factors(module: ModuleFactors, n_rows: int, n_sequences: int) -> ModuleFactors:
    """K-FAC as a special case: Lambda = (n_rows / n_sequences) outer(eig S, eig A).

    A and S are per row, which are tokens, and Lambda is per sequence, hence the ratio. Of an expert
    rows are the tokens that chose it, and sequences all, as those that did not have no gradient.
    """
    assert module.outputs_eigenvalues is not None
    assert module.inputs_eigenvalues is not None
    product = torch.outer(module.outputs_eigenvalues, module.inputs_eigenvalues)
    return replace(module, moments=product * (n_rows / n_sequences))
