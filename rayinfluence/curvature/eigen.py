"""Eigendecompositions of covariances, in float64, on the device that they are on.

On a CPU they have the same bits everywhere, with and without Ray or a GPU.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from rayinfluence.errors import NumericsError
from rayinfluence.text import visible_line

logger = logging.getLogger(__name__)


def eigenbasis(matrix: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues [D], clamped at zero, and eigenvectors [D, D] in columns, of a covariance [D, D].

    A singular covariance is fine: EK-FAC damps in its eigenbasis. Where the solver (LAPACK, or
    cuSOLVER on a GPU) does not converge, a jitter of 1e-10 of the mean eigenvalue is added to the
    diagonal, and a warning says so.

    Args:
        matrix: symmetric up to rounding; symmetrised here, and decomposed where it is.
        name: what it belongs to, for messages.

    Raises:
        NumericsError: it is not finite, or cannot be decomposed even with jitter.
        OutOfMemoryError: its device is too small for it.
    """
    symmetric = matrix.double()
    symmetric = (symmetric + symmetric.T) / 2
    _refuse_not_finite(symmetric, name)
    try:
        values, vectors = torch.linalg.eigh(symmetric)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        jitter = 1e-10 * float(symmetric.diagonal().mean())
        logger.warning(
            "eigh of %s did not converge; retrying with jitter %.3g", visible_line(name), jitter
        )
        try:
            values, vectors = torch.linalg.eigh(
                symmetric + jitter * torch.eye(len(symmetric)).to(symmetric)
            )
        except RuntimeError as error:
            raise NumericsError(
                f"the covariance of {name} cannot be decomposed: {error}. Fit on more sequences."
            ) from error
    return values.clamp_min_(0.0), vectors


def own_basis(diagonal_D: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The same of a diagonal covariance [D]: its entries, in their order, and the identity as ones.

    Raises:
        NumericsError: it is not finite.
    """
    values = diagonal_D.double()
    _refuse_not_finite(values, name)
    return values, torch.ones_like(values)


def _refuse_not_finite(covariance: Tensor, name: str) -> None:
    if not bool(torch.isfinite(covariance).all()):
        raise NumericsError(
            f"the covariance of {name} holds NaN or infinity; fit in a wider dtype (float32)."
        )


def null_directions(values_D: Tensor, dtype: torch.dtype) -> int:
    """How many eigenvalues are zero up to the rounding of sums in ``dtype``."""
    return int((values_D <= torch.finfo(dtype).eps * values_D.max()).sum())
