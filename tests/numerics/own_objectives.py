"""Functions that a user might have trained with, as a configuration names them: with logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def focal(logits_BTV: Tensor, labels_BT: Tensor, _tokens_BT: Tensor, _lengths_B: Tensor) -> Tensor:
    """Lin et al. 2017: what is likely already counts less."""
    classes = labels_BT.ndim == 1
    flat = logits_BTV if classes else logits_BTV.transpose(1, 2)
    log_p = -cross_entropy(flat, labels_BT, reduction="none")
    values = (1 - log_p.exp()).square() * log_p
    return values if classes else values.sum(dim=1)


def squared_error(
    logits_BTV: Tensor, labels_BT: Tensor, _tokens_BT: Tensor, lengths_B: Tensor
) -> Tensor:
    """A mean over the tokens of each text, and no log-probability of anything."""
    if labels_BT.ndim == 1:
        logits_BTV, labels_BT = logits_BTV[:, None], labels_BT[:, None]
        lengths_B = torch.ones_like(lengths_B)
    counts_BT = labels_BT != -100
    chosen_BT = logits_BTV.gather(2, labels_BT.clamp(min=0)[..., None])[..., 0]
    errors_BT = (chosen_BT - 3).square() + logits_BTV.square().mean(dim=2)
    return -(errors_BT * counts_BT).sum(dim=1) / lengths_B


def log_probability(
    logits_BTV: Tensor, labels_BT: Tensor, _tokens_BT: Tensor, _lengths_B: Tensor
) -> Tensor:
    """What is maximised where no function is named."""
    flat = logits_BTV.transpose(1, 2)
    return -cross_entropy(flat, labels_BT, reduction="none").sum(dim=1)
