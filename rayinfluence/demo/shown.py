"""A training that is watched: a progress bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import GPT2LMHeadModel

from rayinfluence.evaluation.training import TrainingSettings, train

PLAIN_LINES = 10


def train_shown(
    model: GPT2LMHeadModel,
    rows: Sequence[Sequence[int]],
    seed: int,
    settings: TrainingSettings,
    console: Console,
    masks: Sequence[Sequence[bool]] | None = None,
) -> float:
    """Train on all rows, as :func:`train` does, and show how far it is."""
    with _Reporter(console, settings.n_steps(len(rows))) as reporter:
        return train(model, rows, seed, settings, reporter.step, masks)


class _Reporter:
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
