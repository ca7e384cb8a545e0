"""The sampling error of what is computed from lanes' sums, by leaving out one lane at a time.

L lane. Source: Tukey's jackknife with groups; Efron & Stein 1981.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def leave_one_out(sums: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Means over all lanes but one [L], from each lane's sum and count, in float64."""
    total = torch.stack([part.double() for part in sums]).sum(dim=0)
    return [
        (total - part.double()) / (sum(counts) - count)
        for part, count in zip(sums, counts, strict=True)
    ]


def jackknife_error(estimate: Tensor, without_lane: Sequence[Tensor]) -> float:
    """The standard error of an estimate, relative: ||error||_2 / ||estimate||_2.

    Args:
        estimate: from all lanes.
        without_lane: the same from all lanes but one, for each; at least two.
    """
    parts = torch.stack([part.double() for part in without_lane])
    spread = ((parts - parts.mean(dim=0)) ** 2).sum()
    variance = spread * (len(parts) - 1) / len(parts)
    return relative(float(variance.sqrt()), estimate)


def relative(error: float, estimate: Tensor) -> float:
    """An error in units of an estimate's norm; infinite where the estimate is zero."""
    norm = float(estimate.double().norm())
    return error / norm if norm > 0 else float("inf")
