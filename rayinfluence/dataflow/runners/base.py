"""What a stage needs of the place it runs in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from rayinfluence.config_places import RunnerConfig
from rayinfluence.dataflow.compute.scoring import Advance
from rayinfluence.dataflow.jobs.handles import Handle
from rayinfluence.dataflow.jobs.job import Job
from rayinfluence.dataflow.jobs.scan import Pending, ScanJob, Settled
from rayinfluence.dataflow.jobs.watch import Leaders

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

    def get_ready(self, device: str) -> None:
        """Begin to start what stages will want, which takes seconds, and do not wait for it.

        Args:
            device: that replicas will be on.
        """

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

    def told_tasks(
        self,
        stage: str,
        function: Callable[[Any, Advance], Any],
        items: Sequence[Any],
        advance: Advance,
    ) -> Iterator[Any]:
        """Apply a function to each item, as :meth:`tasks` does, and hear of its tokens meanwhile.

        Args:
            stage: for metrics.
            function: of an item, and of what it tells tokens to as they are done.
            items: what to do it to.
            advance: told of them here.
        """

    def share(
        self, function: Callable[[Any], Any], items: Sequence[Any], small: bool = False
    ) -> Sequence[Handle[Any]]:
        """What a function makes of each item, for jobs to take along; this process need not see it.

        Args:
            function: mostly reads something.
            items: what.
            small: as for :meth:`tasks`.

        Raises what the function raises, or leaves that to who gets the thing.
        """

    def close(self) -> None:
        """Give back what the runner holds."""
