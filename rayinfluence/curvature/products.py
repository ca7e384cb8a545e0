"""Matrix products that sum in float32 or wider, whatever the dtype of their operands.

N row, D width, B matrix in batch. A running sum in bfloat16 stops growing after a few hundred
batches, and a product that is rounded to bfloat16 before it is added loses as much; so operands may
be bfloat16 and sums never are.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Below this width a Gram matrix is one product: smaller triangles would cost more in calls than
#: they save in operations.
_TRIANGLE = {"cpu": 128, "cuda": 1024}
#: Kinds of device that multiply bfloat16 and sum in float32; others are given float32.
_NARROW = frozenset({"cuda"})


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over values of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def operand_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of products' operands for a model of this dtype on this device.

    bfloat16 where the device multiplies it with float32 accumulation; a CPU is given float32.
    """
    return dtype if device.type in _NARROW else accumulation_dtype(dtype)


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of matrices, or of batches of them, summed and returned in float32 or wider.

    Operands of different dtypes are brought to the left one's.
    """
    right = right.to(left.dtype)
    wide = accumulation_dtype(left.dtype)
    if left.dtype == wide:
        return left @ right
    if left.is_cuda:
        multiply = torch.bmm if left.ndim == 3 else torch.mm
        return multiply(left, right, out_dtype=wide)
    return left.to(wide) @ right.to(wide)


def add_gram(total_DD: Tensor, rows_ND: Tensor) -> None:
    """Add rows^T rows to the lower triangle of a running sum, in place.

    Only products on and below the diagonal are made, by halves: torch has no SYRK, and the product
    is symmetric. :func:`mirrored` gives the whole matrix.
    """
    width = total_DD.shape[0]
    if width <= _TRIANGLE[total_DD.device.type]:
        _accumulate(total_DD, rows_ND, rows_ND)
        return
    half = width // 2
    left, right = rows_ND[:, :half], rows_ND[:, half:]
    add_gram(total_DD[:half, :half], left)
    add_gram(total_DD[half:, half:], right)
    _accumulate(total_DD[half:, :half], right, left)


def mirrored(lower_DD: Tensor) -> Tensor:
    """The symmetric matrix [D, D] whose lower triangle this is."""
    lower = lower_DD.tril()
    return lower + lower.tril(-1).T


def _accumulate(total: Tensor, left_NA: Tensor, right_NB: Tensor) -> None:
    if left_NA.dtype == total.dtype:
        total.addmm_(left_NA.T, right_NB)
    else:
        total.add_(product(left_NA.T, right_NB))
