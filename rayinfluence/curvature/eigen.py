"""Eigendecompositions of covariances, in float64."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from rayinfluence.errors import NumericsError

logger = logging.getLogger(__name__)


def eigenbasis(matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues [D], clamped at zero, and eigenvectors [D, D] in columns, of a covariance [D, D].

    Computed where the matrix is; what a GPU's solver cannot decompose goes to LAPACK, and where
    that does not converge, a jitter of 1e-10 of the mean eigenvalue is added to the diagonal. A
    warning says so. A singular covariance is fine: EK-FAC damps in its eigenbasis.

    Args:
        matrix: symmetric up to rounding; symmetrised here.
        name: what it belongs to, for messages.

    Raises:
        NumericsError: it is not finite, or cannot be decomposed even with jitter.
    """
    symmetric = matrix.double()
    symmetric = (symmetric + symmetric.T) / 2
    if not bool(torch.isfinite(symmetric).all()):
        raise NumericsError(
            f"the covariance of {name} holds NaN or infinity; fit in a wider dtype (float32)."
        )
    jitter = 1e-10 * float(symmetric.diagonal().mean())
    on_cpu = symmetric.cpu()
    attempts = [(on_cpu, ""), (on_cpu + jitter * torch.eye(len(on_cpu)), f"jitter {jitter:.3g}")]
    if symmetric.is_cuda:
        attempts = [(symmetric, ""), (on_cpu, "LAPACK"), attempts[1]]
    failure: RuntimeError | None = None
    for attempt, how in attempts:
        if failure is not None:
            logger.warning("eigh of %s failed (%s); retrying with %s", name, failure, how)
        try:
            values, vectors = torch.linalg.eigh(attempt)
            return values.clamp_min_(0.0), vectors
        except RuntimeError as error:
            failure = error
    raise NumericsError(
        f"the covariance of {name} cannot be decomposed: {failure}. Fit on more sequences."
    ) from failure


def null_directions(values_D: Tensor) -> int:
    """How many eigenvalues are zero up to rounding: directions that no token has.

    The threshold is numpy's for ranks: the width times the spacing of the sums' dtype (float32, as
    wider sums are rare) at the largest eigenvalue.
    """
    largest = float(values_D.max())
    threshold = largest * len(values_D) * torch.finfo(torch.float32).eps
    return int((values_D <= threshold).sum())
