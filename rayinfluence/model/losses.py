"""Log-probabilities of sequences, and labels sampled from the model's own distribution.

B sequence in batch, T token, V vocabulary, N target (a real position that is predicted), over the
whole batch. The log-probability of a sequence is the SUM over its targets. Source: Grosse et al.
2023, sections 2.2.2 and 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

#: Rows of logits turned into probabilities at a time.
_CHUNK_ROWS = 1024


def forward_logits(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Logits [B, T, V] of a transformers model, or of any module that maps tokens to logits."""
    if isinstance(model, PreTrainedModel):
        return model(input_ids=tokens_BT, use_cache=False).logits  # type: ignore[no-any-return]
    output = model(tokens_BT)
    return output.logits if hasattr(output, "logits") else output  # type: ignore[no-any-return]


def target_logits(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """The logits [N, V] that predict the targets: those of the position before each.

    At least float32.
    """
    rows = logits_BTV[:, :-1][targets_BT[:, 1:]]
    return rows if rows.dtype == torch.float64 else rows.float()


def sum_by_sequence(values_N: Tensor, targets_BT: Tensor) -> Tensor:
    """Sum per-target values into their sequences [B]."""
    sequences = targets_BT[:, 1:].nonzero()[:, 0]
    return values_N.new_zeros(targets_BT.shape[0]).index_add(0, sequences, values_N)


def log_probabilities(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Log p(label) [N], differentiable in the logits."""
    return -nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")


def uniforms(seed: int, sequence_ids: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """One uniform in [0, 1) per target of each sequence [N], float64.

    The number at target t of a sequence depends on (seed, sequence id, t) alone: a Philox stream
    keyed by the first two, counted by the third; so neither batch, device nor placement changes a
    sampled label.
    """
    streams = [
        np.random.Generator(np.random.Philox(key=[seed, int(sequence_id)])).random(int(length) - 1)
        for sequence_id, length in zip(sequence_ids, lengths, strict=True)
    ]
    return torch.from_numpy(np.concatenate(streams))


def sample_labels(logits_NV: Tensor, uniforms_N: Tensor) -> Tensor:
    """Labels [N] drawn from softmax(logits) by the inverse of its cumulative distribution."""
    labels = []
    for logits, draws in zip(
        logits_NV.detach().split(_CHUNK_ROWS), uniforms_N.split(_CHUNK_ROWS), strict=True
    ):
        cumulative = torch.softmax(logits, dim=-1).double().cumsum(dim=-1)
        thresholds = draws[:, None] * cumulative[:, -1:]
        labels.append(torch.searchsorted(cumulative, thresholds, right=True)[:, 0])
    return torch.cat(labels).clamp_(max=logits_NV.shape[-1] - 1)
