"""|D_z|^2 of sequences, for scores by gradients of length 1.

B sequence in batch, n sequence in window, T token, I input width, O output width, K numbers of some
rows. Two exact ways to what one module adds, of which shapes alone choose the cheaper:

* through D_z = sum_t g_t a_t^T, whose numbers are squared and summed;
* token by token: sum over t, u of (a_t . a_u + 1) (g_t . g_u), the 1 where there is a bias.

The choice does not look at what else is made of D_z, since a score's bits may not depend on the
banks beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.curvature.products import product
from rayinfluence.influence.tiles import FLOPS_PER_BYTE, TILE_NUMBERS, Part, slices


class Squares:
    """What one module adds to |D_z|^2 of a window's sequences, in float64.

    Args:
        parts: of the window.
        bias: whether the module has one.
    """

    def __init__(self, parts: Sequence[Part], bias: bool) -> None:
        n = sum(len(inputs) for inputs, _ in parts)
        self.bias = bias
        self.sums_n = torch.zeros(n, dtype=torch.float64, device=parts[0][0].device)

    @staticmethod
    def by_tokens(parts: Sequence[Part]) -> bool:
        """Whether it is cheaper to go token by token."""
        inputs, grads = parts[0]
        d_in, d_out = inputs.shape[2], grads.shape[2]
        tokens = sum(part.shape[0] * part.shape[1] for part, _ in parts)
        pairs = sum(part.shape[0] * part.shape[1] ** 2 for part, _ in parts)
        delay = inputs.element_size() * FLOPS_PER_BYTE[inputs.device.type]
        numbers = d_in * d_out * sum(len(part) for part, _ in parts)
        by_tokens = 2 * pairs * (d_in + d_out) + 3 * pairs * delay
        return by_tokens <= 2 * tokens * d_in * d_out + 2 * numbers * delay

    def add_rows(self, gradients_nK: Tensor) -> None:
        """Add some of the numbers of D_z."""
        self.sums_n += torch.linalg.vector_norm(gradients_nK, dim=1, dtype=torch.float64) ** 2

    def add_tokens(self, parts: Sequence[Part]) -> None:
        """Add all of it, token by token, without D_z."""
        start = 0
        for inputs, grads in parts:
            length = inputs.shape[1]
            most = max(1, TILE_NUMBERS[inputs.device.type] // (3 * length))
            for some in slices(len(inputs), max(1, most // length)):
                a_bTI, g_bTO = inputs[some], grads[some]
                for rows in slices(length, max(1, most // len(a_bTI))):
                    found_b = _products(a_bTI, g_bTO, rows, self.bias)
                    self.sums_n[start : start + len(a_bTI)] += found_b
                start += len(a_bTI)


def _products(inputs_bTI: Tensor, grads_bTO: Tensor, rows: slice, bias: bool) -> Tensor:
    """The sums [b] over some tokens t and all u."""
    alike_btu = product(inputs_bTI[:, rows], inputs_bTI.transpose(1, 2)).double()
    if bias:
        alike_btu += 1
    alike_btu *= product(grads_bTO[:, rows], grads_bTO.transpose(1, 2))
    return alike_btu.sum(dim=(1, 2))


def per_length(squares_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """What scores are multiplied with to be of gradients of length 1.

    Zero where the gradient is zero, as it is like nothing; NaN where it is not finite.
    """
    lengths_N = np.sqrt(squares_N)
    lengths_N[~np.isfinite(lengths_N)] = np.nan
    return np.divide(1.0, lengths_N, out=np.zeros_like(lengths_N), where=lengths_N != 0)
