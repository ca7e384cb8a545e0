"""How Ray's workers tell their driver what they do.

The tally is a process of its own and starts before any other: nothing here imports torch, which
takes seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

import ray

from rayinfluence.dataflow.jobs.watch import Leaders, keep_leaders, timed_phase
from rayinfluence.dataflow.runners.ray.metrics import Meter
from rayinfluence.storage.retry import retries

#: A tally hears about a thousand messages a second, and a batch may take milliseconds: an actor
#: gathers what it does for so long before it tells of it.
_TELL_SECONDS = 1.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Tally:
    """What the workers of a driver have begun and done; it lives and ends beside the driver.

    Where its process is killed another counts from nothing on: progress is told wrong for a while,
    and work that kills its workers may do so a few times more.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._starts: Counter[str] = Counter()
        self._leaders: Leaders = {}

    def forget(self) -> None:
        """A job begins: nothing of it has been started."""
        self._starts.clear()
        self._leaders.clear()

    def begin(self, work: str) -> int:
        """Count a start of a piece of work; returns the count."""
        self._starts[work] += 1
        return self._starts[work]

    def hear(self, tokens: int, leaders: Leaders) -> None:
        """Count tokens, and keep the strongest proponents."""
        self._tokens += tokens
        keep_leaders(self._leaders, leaders)

    def take(self) -> tuple[int, Leaders]:
        """The tokens and the new leaders since the last call."""
        taken = self._tokens, self._leaders
        self._tokens, self._leaders = 0, {}
        return taken


class ActorWatch:
    """A watch that tells the driver's tally, and Prometheus.

    Starts are told at once, the rest at most once a second and when :meth:`tell` is called.

    Args:
        tally: the driver's.
        run: the run's name.
        stage: the stage's.
    """

    def __init__(self, tally: Any, run: str, stage: str) -> None:
        self._tally = tally
        self._meter = Meter(run, stage)
        self._retries = retries()
        self._tokens = 0
        self._leaders: Leaders = {}
        self._told = -_TELL_SECONDS

    def begin(self, work: str) -> int:
        """Note a start."""
        return int(ray.get(self._tally.begin.remote(work)))

    def advance(self, tokens: int) -> None:
        """Note tokens."""
        self._tokens += tokens
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self.tell()

    def lead(self, found: Leaders) -> None:
        """Note proponents."""
        keep_leaders(self._leaders, found)

    def tell(self) -> None:
        """Tell what has not been told yet: also to be called at the end of a piece of work."""
        if self._tokens or self._leaders:
            self._tally.hear.remote(self._tokens, self._leaders)
        self.count("rayinfluence_tokens", self._tokens)
        before, self._retries = self._retries, retries()
        self.count("rayinfluence_retries", self._retries - before)
        self._tokens, self._leaders = 0, {}
        self._told = time.monotonic()

    def count(self, name: str, value: float, **tags: str) -> None:
        """Add to a metric."""
        self._meter.add(name, value, **tags)

    def phase(self, name: str, work: str) -> AbstractContextManager[None]:
        """Time and log a phase."""
        return timed_phase(self, name, work)
