"""The training of a causal language model, whole or without some of its sequences.

AdamW, a cosine, batches of sequences of similar length. What is drawn, and in which order, is a
function of the sequences' lengths and of the seed alone, so that two trainings with other weights
of sequences have common random numbers: order, batches, padding, schedule, and what each batch's
loss is divided by.

N sequence, B sequence in batch, T token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

IGNORED = -100
#: Of AdamW, and the norm of a gradient above which it is cut down to that.
BETAS, EPSILON, CLIP = (0.9, 0.95), 1e-8, 1.0

#: Told of each step: the loss of its batch, and tokens that the batch predicts.
Tell = Callable[[float, int], None]


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained; ``threads`` is here because it changes the weights' last bits."""

    epochs: int = 28
    batch: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    threads: int = 2

    def n_steps(self, n_sequences: int) -> int:
        """How many steps a training on so many sequences takes."""
        return self.epochs * math.ceil(n_sequences / self.batch)


def train(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    seed: int,
    settings: TrainingSettings,
    tell: Tell = lambda loss, tokens: None,
    masks: Sequence[Sequence[bool] | NDArray[np.bool_] | None] | None = None,
    weights_N: Sequence[float] | NDArray[np.float32] | None = None,
) -> float:
    """Train in place; returns the mean loss per token seen over the last epoch, NaN if none was.

    The loss of a batch is sum_n w_n (sum of the losses of its tokens that count) / (how many
    tokens of the batch count, whatever the weights): dropping a sequence takes its gradient away
    and changes nothing else. Sequences of weight 0 take no part in the forward pass, and others'
    values do not depend on them but for rounding; a batch that has no others is run with zeros, as
    AdamW moves weights then, too.

    The model is in evaluation mode: dropout would draw other numbers beside other sequences.

    Args:
        model: gives logits [B, T, V] for ``input_ids`` [B, T].
        rows: sequences of token ids.
        seed: of their order.
        settings: how.
        tell: told of each step.
        masks: say which tokens of each row the loss counts; all where there are none.
        weights_N: how often each row is seen: 0 is dropped, 1 kept, 2 seen twice. None is once.
    """
    plan = plan_of(rows, seed, settings)
    per_epoch = len(plan) // settings.epochs
    optimizer = torch.optim.AdamW(
        _decay_groups(model, settings.weight_decay),
        lr=settings.learning_rate,
        betas=BETAS,
        eps=EPSILON,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, len(plan), settings.warmup)
    )
    losses: list[tuple[float, int, float]] = []
    model.train(False)
    with threads_of(settings.threads):
        for batch in plan:
            chosen = None if masks is None else [masks[index] for index in batch]
            inputs_BT, labels_BT = pad([rows[index] for index in batch], chosen)
            weights_B = torch.ones(len(batch))
            if weights_N is not None:
                weights_B = torch.tensor([float(weights_N[index]) for index in batch])
            loss = _loss(model, inputs_BT, labels_BT, weights_B)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            predicted = [len(rows[index]) - 1 for index in batch]
            n_seen = sum(n * w for n, w in zip(predicted, weights_B.tolist(), strict=True))
            losses.append((loss.item(), sum(predicted), n_seen))
            tell(losses[-1][0], losses[-1][1])
    last = losses[-per_epoch:]
    n_seen = sum(seen for _, _, seen in last)
    return sum(value * tokens for value, tokens, _ in last) / n_seen if n_seen else math.nan


def _loss(model: nn.Module, inputs_BT: Tensor, labels_BT: Tensor, weights_B: Tensor) -> Tensor:
    """The loss of a batch, with the divisor that it has whatever the weights."""
    n_counted = (labels_BT[:, 1:] != IGNORED).sum().clamp_min(1)
    if (weights_B == 0).all():
        return _sum(model, inputs_BT, labels_BT, weights_B) / n_counted
    kept = weights_B > 0
    return _sum(model, inputs_BT[kept], labels_BT[kept], weights_B[kept]) / n_counted


def _sum(model: nn.Module, inputs_BT: Tensor, labels_BT: Tensor, weights_B: Tensor) -> Tensor:
    """The weighted sum of the losses of tokens."""
    logits_BTV = model(input_ids=inputs_BT, use_cache=False).logits[:, :-1]
    logits_NV, labels_N = logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten()
    if (weights_B == 1).all():
        return functional.cross_entropy(logits_NV, labels_N, ignore_index=IGNORED, reduction="sum")
    return (losses_of(logits_BTV, labels_BT) * weights_B).sum()


def losses_of(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """The sum of the losses of each sequence's tokens that count [B].

    Args:
        logits_BTV: of all tokens but the last.
        labels_BT: of all tokens.
    """
    logits_NV, labels_N = logits_BTV.flatten(0, 1), labels_BT[:, 1:].flatten()
    losses_N = functional.cross_entropy(logits_NV, labels_N, ignore_index=IGNORED, reduction="none")
    return losses_N.view(len(labels_BT), -1).sum(dim=1)


def plan_of(
    rows: Sequence[Sequence[int]], seed: int, settings: TrainingSettings
) -> list[list[int]]:
    """Which rows each step of a training sees, by their places."""
    rng = np.random.default_rng(seed)
    return [batch for _ in range(settings.epochs) for batch in batches(rows, settings.batch, rng)]


def batches(
    rows: Sequence[Sequence[int]], size: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """One epoch in random order; rows meet others of similar length, to save padding."""
    order = rng.permutation(len(rows))
    pool = size * 16
    found: list[list[int]] = []
    for start in range(0, len(order), pool):
        alike = sorted(order[start : start + pool].tolist(), key=lambda index: len(rows[index]))
        found += [alike[first : first + size] for first in range(0, len(alike), size)]
    for index in rng.permutation(len(found)):
        yield found[index]


def pad(
    rows: Sequence[Sequence[int]],
    masks: Sequence[Sequence[bool] | NDArray[np.bool_] | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Inputs padded on the right with token 0, and labels that ignore what does not count.

    A row whose mask is None counts whole.
    """
    longest = max(map(len, rows))
    inputs = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(inputs, IGNORED)
    for index, row in enumerate(rows):
        inputs[index, : len(row)] = labels[index, : len(row)] = torch.tensor(row)
        mask = None if masks is None else masks[index]
        if mask is not None:
            labels[index, : len(row)][~torch.tensor(mask)] = IGNORED
    return inputs, labels


def learning_rate_share(step: int, steps: int, warmup: float) -> float:
    """A linear rise over the share ``warmup`` of the steps, then a cosine down to a twentieth."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases and norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """Let torch have so many threads, on which the last bits of a training depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
