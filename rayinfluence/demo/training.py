"""The training of the demo's model: AdamW, a cosine, batches of documents of similar length."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import GPT2LMHeadModel

IGNORED = -100
PLAIN_LINES = 10


@dataclass(frozen=True)
class TrainingSettings:
    """How the model is trained; ``threads`` is here because it changes the weights' last bits."""

    epochs: int = 28
    batch: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    threads: int = 2


def train(
    model: GPT2LMHeadModel,
    rows: Sequence[Sequence[int]],
    seed: int,
    settings: TrainingSettings,
    console: Console,
    masks: Sequence[Sequence[bool]] | None = None,
) -> float:
    """Train in place; returns the mean loss per token over the last epoch.

    ``masks`` say which tokens of each row the loss counts; all where there are none.
    """
    rng = np.random.default_rng(seed)
    plan = [batch for _ in range(settings.epochs) for batch in batches(rows, settings.batch, rng)]
    per_epoch = len(plan) // settings.epochs
    optimizer = torch.optim.AdamW(
        _decay_groups(model, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.95)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, len(plan), settings.warmup)
    )
    losses: list[tuple[float, int]] = []
    model.train()
    with _threads(settings.threads), _Reporter(console, len(plan)) as reporter:
        for batch in plan:
            chosen = None if masks is None else [masks[index] for index in batch]
            inputs, labels = pad([rows[index] for index in batch], chosen)
            logits = model(input_ids=inputs, use_cache=False).logits[:, :-1]
            loss = functional.cross_entropy(
                logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append((loss.item(), sum(len(rows[index]) - 1 for index in batch)))
            reporter.step(*losses[-1])
    model.train(False)
    last = losses[-per_epoch:]
    return sum(value * tokens for value, tokens in last) / sum(tokens for _, tokens in last)


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
    rows: Sequence[Sequence[int]], masks: Sequence[Sequence[bool]] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs padded on the right with token 0, and labels that ignore what does not count."""
    longest = max(map(len, rows))
    inputs = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(inputs, IGNORED)
    for index, row in enumerate(rows):
        inputs[index, : len(row)] = labels[index, : len(row)] = torch.tensor(row)
        if masks is not None:
            labels[index, : len(row)][~torch.tensor(masks[index])] = IGNORED
    return inputs, labels


def learning_rate_share(step: int, steps: int, warmup: float) -> float:
    """A linear rise over the share ``warmup`` of the steps, then a cosine down to a twentieth."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def _decay_groups(model: GPT2LMHeadModel, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases and norms do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Reporter:
    """A progress bar on a terminal, and a plain line now and then elsewhere."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console, self._steps, self._done, self._tokens = console, steps, 0, 0
        self._loss = float("nan")
        self._started = time.monotonic()
        self._bar = Progress(
            TextColumn("training the demo's model"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("training", total=steps, state="")

    def __enter__(self) -> _Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, loss: float, tokens: int) -> None:
        """Count one step and show it."""
        self._done += 1
        self._tokens += tokens
        self._loss = loss if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss
        speed = self._tokens / max(time.monotonic() - self._started, 1e-9)
        state = f"loss {self._loss:.2f}  {speed:,.0f} tokens/s"
        self._bar.update(self._task, advance=1, state=state)
        every = max(1, self._steps // PLAIN_LINES)
        if not self._console.is_terminal and (self._done % every == 0 or self._done == self._steps):
            left = (self._steps - self._done) / self._done * (time.monotonic() - self._started)
            self._console.print(
                f"training: step {self._done} of {self._steps}, {state}, {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )
