"""Bregman divergences of outputs: how far a model's predictions are from those at its start.

N target, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rayinfluence.model.losses import wide


def divergences(logits_NV: Tensor, start_NV: Tensor, labels_N: Tensor) -> Tensor:
    """D(h, h_s) [N], in nats: the Bregman divergence of the loss, which is no less than 0.

    D(h, h_s) = L(h) - L(h_s) - <grad L(h_s), h - h_s>. Of minus log softmax it is KL(p_s || p),
    whatever the label; of half the squared error it is half the squared difference. Bae et al.
    2022, equation 8.

    Args:
        logits_NV: h, differentiable in it.
        start_NV: h_s, the same at the start.
        labels_N: numbers of a regression, and classes or tokens of all else; none is looked at.
    """
    here_NV, there_NV = wide(logits_NV), wide(start_NV)
    if labels_N.is_floating_point():
        return 0.5 * (here_NV - there_NV).square()[:, 0]
    log_s_NV = there_NV.log_softmax(dim=1)
    change_NV = here_NV.log_softmax(dim=1) - log_s_NV
    change_NV = torch.where(torch.isneginf(log_s_NV), 0.0, change_NV)  # never said, then or now
    # Sums of p and of p_s are 1. So no term is negative, and small ones keep their digits.
    return (log_s_NV.exp() * (change_NV.expm1() - change_NV)).sum(dim=1)
