"""Truncated SVD of preconditioned query gradients (Grosse et al. 2023, section 3.2.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Up to this width a full SVD is cheap enough to be preferred to a randomised one.
FULL_SVD_WIDTH = 256
_OVERSAMPLING = 16
_POWER_ITERATIONS = 2


def low_rank(matrix_OJ: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """U [O, R] and V [J, R] with matrix close to U V^T, R = min(rank, O, J).

    Exact truncation where the smaller width is at most 256; else a randomised range finder with 16
    extra columns and two power iterations (Halko et al. 2011), whose random numbers come from
    ``seed`` alone. The singular values are shared evenly by both sides.
    """
    rank = min(rank, *matrix_OJ.shape)
    if min(matrix_OJ.shape) <= max(FULL_SVD_WIDTH, rank + _OVERSAMPLING):
        left, values, right = torch.linalg.svd(matrix_OJ, full_matrices=False)
    else:
        noise = np.random.Generator(np.random.Philox(key=seed)).standard_normal(
            (matrix_OJ.shape[1], rank + _OVERSAMPLING)
        )
        probe = torch.from_numpy(noise).to(matrix_OJ)
        basis = torch.linalg.qr(matrix_OJ @ probe).Q
        for _ in range(_POWER_ITERATIONS):
            basis = torch.linalg.qr(matrix_OJ @ torch.linalg.qr(matrix_OJ.T @ basis).Q).Q
        inner, values, right = torch.linalg.svd(basis.T @ matrix_OJ, full_matrices=False)
        left = basis @ inner
    root = values[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root
