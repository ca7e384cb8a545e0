"""Log-probabilities of sequences, and labels sampled from the model's own distribution.

B sequence in batch, V vocabulary, D hidden width, N target (a real position that is predicted),
over the whole batch. The log-probability of a sequence is the SUM over its targets. Source: Grosse
et al. 2023, sections 2.2.2 and 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Given logits [n, V] of some targets and which they are, the labels [n] whose log-probability is
#: the objective.
Choose = Callable[[Tensor, slice], Tensor]

#: Logits made at a time, in numbers; fewer stay in the processor's cache, more fill a GPU.
_CHUNK_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 26}
#: Below this a chunk would read the head's weight more often than it pays.
_CHUNK_ROWS = 256
#: Probabilities whose sum is searched as one.
_BLOCK = 64


def head_log_probabilities(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, choose: Choose
) -> Tensor:
    """Log p(label) [N] through an output head, differentiable in the hidden states.

    Logits, softmax, choice of labels and gradient are made some rows at a time, so [N, V] never
    exists; the head's weight gets no gradient.
    """
    return _HeadLogProbabilities.apply(  # type: ignore[no-any-return,no-untyped-call]
        hidden_ND, weight_VD, bias_V, choose
    )


class _HeadLogProbabilities(torch.autograd.Function):
    """The gradient in the hidden states is made beside the value: (onehot(label) - p) W."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, choose: Choose
    ) -> Tensor:
        rows = max(_CHUNK_ROWS, _CHUNK_NUMBERS[hidden_ND.device.type] // len(weight_VD))
        gradient_ND = torch.empty_like(hidden_ND)
        # A batch may have no targets.
        values = [wide(hidden_ND.new_zeros(0))]
        for start in range(0, len(hidden_ND), rows):
            part = slice(start, start + rows)
            logits = wide(nn.functional.linear(hidden_ND[part], weight_VD, bias_V))
            labels = choose(logits, part)[:, None]
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            values.append((logits.gather(1, labels) - normaliser)[:, 0])
            minus_p = logits.sub_(normaliser).exp_().neg_()
            minus_p.scatter_add_(1, labels, torch.ones_like(normaliser))
            torch.mm(minus_p.to(weight_VD.dtype), weight_VD, out=gradient_ND[part])
        ctx.save_for_backward(gradient_ND)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *upstream_N: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_ND,) = ctx.saved_tensors
        return gradient_ND * upstream_N[0].to(gradient_ND.dtype)[:, None], None, None, None


def log_probabilities(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Log p(label) [N], differentiable in the logits.

    Of labels that are numbers it is the density of a normal distribution of variance 1 around the
    one logit of each, the prediction: minus half the squared error, and a constant.
    """
    if labels_N.is_floating_point():
        errors_N = wide(logits_NV)[:, 0] - labels_N.to(wide(logits_NV).dtype)
        return -0.5 * (errors_N.square() + math.log(2 * math.pi))
    return -nn.functional.cross_entropy(wide(logits_NV), labels_N, reduction="none")


def ranks(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Places of labels among all by their logits [N], from 1; of numbers 1, as none is beside."""
    if labels_N.is_floating_point():
        return torch.ones_like(labels_N, dtype=torch.int64)
    chosen_N1 = logits_NV.gather(1, labels_N[:, None])
    return 1 + (logits_NV > chosen_N1).sum(dim=1)


def margins(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Log-odds of labels against all others [N], log p(label) - log(1 - p(label)).

    As the label's logit less the logarithm of the others' summed exponentials, which keeps its
    digits where p rounds to 1. Park et al. 2023 (TRAK) take it for a model's output.
    """
    wide_NV, labels_N1 = wide(logits_NV), labels_N[:, None]
    others_NV = wide_NV.scatter(1, labels_N1, -torch.inf)
    return (wide_NV.gather(1, labels_N1) - others_NV.logsumexp(dim=1, keepdim=True))[:, 0]


def uniforms(seed: int, sequence_ids: Sequence[int], counts: Sequence[int]) -> Tensor:
    """One uniform in [0, 1) per target of each sequence [N], float64.

    The number at target t of a sequence depends on (seed, sequence id, t) alone: a Philox stream
    keyed by the first two, counted by the third; so neither batch, device nor placement changes a
    sampled label.

    Args:
        seed: of the run.
        sequence_ids: of the batch.
        counts: targets of each sequence.
    """
    streams = [
        np.random.Generator(np.random.Philox(key=[seed, int(sequence_id)])).random(int(count))
        for sequence_id, count in zip(sequence_ids, counts, strict=True)
    ]
    return torch.from_numpy(np.concatenate(streams))


def sample_numbers(logits_NV: Tensor, uniforms_N: Tensor) -> Tensor:
    """Labels [N] drawn from the normal distribution of variance 1 around each prediction.

    By the inverse of its cumulative distribution; that of 0 would be infinite.
    """
    uniforms_N = uniforms_N.to(logits_NV.device).clamp(min=2.0**-54)
    drawn_N: Tensor = logits_NV.detach()[:, 0].double() + torch.special.ndtri(uniforms_N)
    return drawn_N


def sample_labels(logits_NV: Tensor, uniforms_N: Tensor) -> Tensor:
    """Labels [N] drawn from softmax(logits) by the inverse of its cumulative distribution.

    The distribution is searched in two steps, for a block of the vocabulary and then within it, so
    that only a block of it is summed label by label, in float64.
    """
    probabilities = torch.softmax(wide(logits_NV.detach()), dim=-1)
    missing = -probabilities.shape[1] % _BLOCK
    blocks_NKW = nn.functional.pad(probabilities, (0, missing)).unflatten(1, (-1, _BLOCK))
    ends_NK = blocks_NKW.sum(dim=2, dtype=torch.float64).cumsum(dim=1)
    thresholds_N1 = uniforms_N.to(ends_NK.device)[:, None] * ends_NK[:, -1:]
    block_N1 = _search(ends_NK, thresholds_N1)
    before_N1 = torch.where(block_N1 > 0, ends_NK.gather(1, (block_N1 - 1).clamp_(min=0)), 0.0)
    rows = torch.arange(len(block_N1), device=block_N1.device)
    within_NW = blocks_NKW[rows, block_N1[:, 0]].double().cumsum(dim=1)
    labels: Tensor = block_N1 * _BLOCK + _search(within_NW, thresholds_N1 - before_N1)
    # Among NaN no place is found, and any label will do: the log-probability is NaN, too.
    return labels[:, 0].clamp_(max=logits_NV.shape[1] - 1)


def _search(cumulative_NK: Tensor, thresholds_N1: Tensor) -> Tensor:
    """The first place [N, 1] whose cumulative sum is above the threshold.

    Rounding can put a threshold at the very end, or beyond; it is then the last place that adds
    something.
    """
    below_end = torch.nextafter(cumulative_NK[:, -1:], torch.zeros_like(thresholds_N1))
    places = torch.searchsorted(cumulative_NK, thresholds_N1.minimum(below_end), right=True)
    return places.clamp_(max=cumulative_NK.shape[1] - 1)


def wide(logits: Tensor) -> Tensor:
    """Logits in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()
