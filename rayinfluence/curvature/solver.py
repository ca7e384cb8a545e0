"""The solver seam: what stands between a query's gradient and inner products, one module at a time.

B sequence in batch, O output width, I input width, J = I + 1 where there is a bias, T token, R
rank. V is a gradient [O, J] of one module, its bias LAST.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from rayinfluence.curvature.sums import plain_gradients, sums_of_squares

#: Cuts a matrix [O, J] to left [O, R] and right [J, R], whose product it nearly is.
Cut = Callable[[Tensor], tuple[Tensor, Tensor]]


class Inverse(Protocol):
    """(G + lambda I)^-1 of one module."""

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        """(G + lambda I)^-1 V [O, J]."""

    def of_tokens(
        self, inputs_TI: Tensor, grads_TO: Tensor, cut: Cut | None = None
    ) -> dict[str, Tensor]:
        """(G + lambda I)^-1 D of the gradient D = sum_t g_t a_t^T.

        Returns:
            ``dense`` [O, J], or ``left`` [O, R] and ``right`` [J, R] as ``cut`` gives them.
        """

    def quadratic(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """<D, (G + lambda I)^-1 D> [B] of each sequence's gradient D, in float64, never negative.

        By squares alone, so that no rounding takes it below zero.
        """


class Solver(Protocol):
    """G + lambda I of one module: a symmetric, positive linear map of its gradients."""

    @property
    def damping(self) -> float | None:
        """Lambda; None where there is no curvature to damp."""

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        """(G + lambda I) V [O, J]."""

    def inverse(self) -> Inverse:
        """(G + lambda I)^-1."""


class Identity:
    """G + lambda I = I, which is its own inverse.

    Args:
        bias: whether the module has one.
    """

    damping = None

    def __init__(self, bias: bool) -> None:
        self._bias = bias

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        """V itself."""
        return gradient_OJ

    def inverse(self) -> Inverse:
        """Itself."""
        return self

    def of_tokens(
        self, inputs_TI: Tensor, grads_TO: Tensor, cut: Cut | None = None
    ) -> dict[str, Tensor]:
        """The gradient."""
        gradient_OJ = grads_TO.T @ inputs_TI
        if self._bias:
            gradient_OJ = torch.cat([gradient_OJ, grads_TO.sum(dim=0)[:, None]], dim=1)
        if cut is None:
            return {"dense": gradient_OJ}
        left_OR, right_JR = cut(gradient_OJ)
        return {"left": left_OR, "right": right_JR}

    def quadratic(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """|D|^2 [B]."""
        return sums_of_squares(plain_gradients(inputs_BTI, grads_BTO, self._bias))
