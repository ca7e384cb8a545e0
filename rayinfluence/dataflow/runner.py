"""What a stage needs of the place it runs in, and the simplest such place: this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch

from rayinfluence.config import RunnerConfig
from rayinfluence.dataflow.jobs import Job
from rayinfluence.dataflow.replica import Replica
from rayinfluence.dataflow.scan_job import Pending, ScanJob, Settled
from rayinfluence.dataflow.stages import Advance
from rayinfluence.dataflow.watch import Leaders, LocalWatch

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Lead = Callable[[Leaders], None]


def ignore(leaders: Leaders) -> None:
    """For who does not want to know who leads."""


def joins_a_cluster(config: RunnerConfig) -> bool:
    """Whether the work goes to a Ray that is there already: elsewhere, or started by the caller."""
    if config.name == "inline":
        return False
    ray = sys.modules.get("ray")  # who has started it has imported it
    started = ray is not None and ray.is_initialized()
    return bool(started or config.address or os.environ.get("RAY_ADDRESS"))


class Runner(Protocol):
    """Runs work on items, in any order and anywhere; outcomes do not depend on which."""

    def device(self) -> str:
        """The device that workers have: cuda or cpu."""

    def replicas(self, job: Job[Any, Any], items: Sequence[Any], advance: Advance) -> Iterator[Any]:
        """Run a job on each item with a model replica; yields outcomes as they come."""

    def scan(
        self, job: ScanJob, pending: Sequence[Pending], advance: Advance, lead: Lead = ignore
    ) -> Iterator[Settled]:
        """Score splits; yields each when it is committed or set aside."""

    def tasks(
        self, function: Callable[[Any], Any], items: Sequence[Any], small: bool = False
    ) -> Iterator[Any]:
        """Apply a function to each item, without a model.

        Args:
            function: what to do.
            items: what to do it to.
            small: whether all of it takes less time than a process takes to start, some seconds;
                then it is done in this one.

        Yields outcomes in the order of the items.
        """

    def close(self) -> None:
        """Give back what the runner holds."""


class InlineRunner:
    """All work in this process, one item after another, on one thread as everywhere.

    Args:
        replica: makes the model replica when the first item needs it.
    """

    def __init__(self, replica: Callable[[], Replica]) -> None:
        self._make = replica
        self._replica: Replica | None = None
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def device(self) -> str:
        """This process's."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    def replicas(self, job: Job[Any, Any], items: Sequence[Any], advance: Advance) -> Iterator[Any]:
        """Run a job on each item."""
        if items:
            replica = self._ready()
            job.prepare(replica)
            watch = LocalWatch(advance)
            for item in items:
                yield job.run(replica, item, watch)

    def scan(
        self, job: ScanJob, pending: Sequence[Pending], advance: Advance, lead: Lead = ignore
    ) -> Iterator[Settled]:
        """Score splits one after another."""
        if pending:
            replica = self._ready()
            job.prepare(replica)
            yield from job.run(replica, pending, LocalWatch(advance, lead))

    def tasks(
        self, function: Callable[[Any], Any], items: Sequence[Any], small: bool = False
    ) -> Iterator[Any]:
        """Apply a function to each item."""
        return map(function, items)

    def close(self) -> None:
        """Drop the replica and restore the number of threads."""
        self._replica = None
        torch.set_num_threads(self._threads)

    def _ready(self) -> Replica:
        if self._replica is None:
            self._replica = self._make()
        return self._replica
