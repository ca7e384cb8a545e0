"""Sums over tokens and sequences from which the factors are made.

B sequence in batch, T token, N real token in batch, I input width, J = I + 1 where there is a bias
(a one, LAST), O output width. For a module with inputs a and output gradients g (Grosse et al.
2023, section 2.2; George et al. 2018):

    A = sum a a^T / n_tokens [J, J]     S = sum g g^T / n_tokens [O, O] D = sum_t g_t a_t^T of ONE
    sequence [O, J]     Lambda = mean over sequences of (Q_S^T D Q_A)^2 [O, J]

Sums are kept in float32, or float64 where the model is; never in bfloat16, whose running sums stop
growing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over values of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class CovarianceSums:
    """Sums for A and S of one module: of a a^T [I, I], of a [I], of g g^T [O, O], of rows.

    A module that is called n times per forward pass has n rows per token.
    """

    inputs_II: Tensor
    inputs_I: Tensor
    grads_OO: Tensor
    n_rows: Tensor

    @classmethod
    def zeros(
        cls, d_in: int, d_out: int, dtype: torch.dtype, device: torch.device
    ) -> CovarianceSums:
        """The identity of addition."""
        return cls(
            torch.zeros(d_in, d_in, dtype=dtype, device=device),
            torch.zeros(d_in, dtype=dtype, device=device),
            torch.zeros(d_out, d_out, dtype=dtype, device=device),
            torch.zeros((), dtype=torch.float64),
        )

    def add(self, inputs_BTI: Tensor, grads_BTO: Tensor, mask_BT: Tensor) -> None:
        """Add a batch; padded positions of the inputs are left out (their gradients are zero)."""
        calls = inputs_BTI.shape[1] // mask_BT.shape[1]
        mask = mask_BT if calls == 1 else mask_BT.repeat(1, calls)
        inputs_NI = inputs_BTI[mask].to(self.inputs_II.dtype)
        grads_NO = grads_BTO[mask].to(self.grads_OO.dtype)
        self.inputs_II.addmm_(inputs_NI.T, inputs_NI)
        self.inputs_I.add_(inputs_NI.sum(dim=0))
        self.grads_OO.addmm_(grads_NO.T, grads_NO)
        self.n_rows += len(inputs_NI)


def homogeneous(inputs_II: Tensor, inputs_I: Tensor, n_rows: Tensor) -> Tensor:
    """The sum of a a^T [J, J] for inputs with a one LAST, bordered from the sums without it."""
    corner = n_rows.to(inputs_I).reshape(1)
    top = torch.cat([inputs_II, inputs_I[:, None]], dim=1)
    return torch.cat([top, torch.cat([inputs_I, corner])[None, :]], dim=0)


def rotated_gradients(
    inputs_BTI: Tensor, grads_BTO: Tensor, basis_JJ: Tensor, basis_OO: Tensor
) -> list[Tensor]:
    """Q_S^T D Q_A [O, J] of each sequence of a batch.

    Each side is rotated where it is cheaper: token by token when the sequence is shorter than the
    other width, or the summed gradient otherwise. The bias column is never built: it contributes
    the last row of Q_A to every rotated token.
    """
    n_tokens = inputs_BTI.shape[1]
    d_in, d_out = inputs_BTI.shape[2], grads_BTO.shape[2]
    rotate_inputs = n_tokens < d_out
    rotate_grads = n_tokens < d_in
    bias_J = basis_JJ[d_in] if basis_JJ.shape[0] > d_in else None
    inputs, grads = inputs_BTI.to(basis_JJ.dtype), grads_BTO.to(basis_OO.dtype)
    if rotate_inputs:
        inputs = inputs @ basis_JJ[:d_in]
        if bias_J is not None:
            inputs = inputs + bias_J
    if rotate_grads:
        grads = grads @ basis_OO
    rotated = []
    for a_TI, g_TO in zip(inputs, grads, strict=True):
        gradient = g_TO.T @ a_TI
        if not rotate_inputs:
            gradient = gradient @ basis_JJ[:d_in]
            if bias_J is not None:
                gradient.addr_(g_TO.sum(dim=0), bias_J)
        rotated.append(gradient if rotate_grads else basis_OO.T @ gradient)
    return rotated


def tree_sum(parts: list[Mapping[str, Tensor] | None]) -> dict[str, Tensor]:
    """Sum named tensors pairwise in one fixed tree, in float64; None is the identity.

    The tree depends on the number of parts alone, so the sum has the same bits whoever made the
    parts.
    """
    level: list[Mapping[str, Tensor] | None] = [
        None if part is None else {name: tensor.double() for name, tensor in part.items()}
        for part in parts
    ]
    while len(level) > 1:
        level = [_add(*level[i : i + 2]) for i in range(0, len(level), 2)]
    return dict(level[0] or {})


def _add(
    left: Mapping[str, Tensor] | None, right: Mapping[str, Tensor] | None = None
) -> Mapping[str, Tensor] | None:
    if left is None or right is None:
        return right if left is None else left
    return {name: left[name] + right[name] for name in left}
