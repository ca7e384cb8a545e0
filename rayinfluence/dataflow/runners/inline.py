"""The simplest place to run in: this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import Advance
from rayinfluence.dataflow.jobs.handles import Deferred, Handle
from rayinfluence.dataflow.jobs.job import Job
from rayinfluence.dataflow.jobs.scan import Pending, ScanJob, Settled
from rayinfluence.dataflow.jobs.watch import LocalWatch
from rayinfluence.dataflow.runners.base import Lead, ignore
from rayinfluence.guest import own_arithmetic, stepwise


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

    def get_ready(self, device: str) -> None:
        """Nothing is to be started."""

    def replicas(self, job: Job[Any, Any], items: Sequence[Any], advance: Advance) -> Iterator[Any]:
        """Run a job on each item."""
        return stepwise(lambda: self._replicas(job, items, advance))

    def _replicas(
        self, job: Job[Any, Any], items: Sequence[Any], advance: Advance
    ) -> Iterator[Any]:
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
        return stepwise(lambda: self._scan(job, pending, advance, lead))

    def _scan(
        self, job: ScanJob, pending: Sequence[Pending], advance: Advance, lead: Lead
    ) -> Iterator[Settled]:
        if pending:
            replica = self._ready()
            job.prepare(replica)
            yield from job.run(replica, pending, LocalWatch(advance, lead))

    def tasks(
        self, function: Callable[[Any], Any], items: Sequence[Any], small: bool = False
    ) -> Iterator[Any]:
        """Apply a function to each item."""
        return map(own_arithmetic()(function), items)

    def told_tasks(
        self,
        stage: str,
        function: Callable[[Any, Advance], Any],
        items: Sequence[Any],
        advance: Advance,
    ) -> Iterator[Any]:
        """Apply a function to each item."""
        return map(own_arithmetic()(lambda item: function(item, advance)), items)

    def share(
        self, function: Callable[[Any], Any], items: Sequence[Any], small: bool = False
    ) -> Sequence[Handle[Any]]:
        """Made whenever it is needed: this process holds no more than one at a time."""
        return [Deferred(own_arithmetic()(function), item) for item in items]

    def close(self) -> None:
        """Drop the replica and restore the number of threads."""
        self._replica = None
        torch.set_num_threads(self._threads)

    def _ready(self) -> Replica:
        if self._replica is None:
            self._replica = self._make()
        return self._replica
