"""What a runner can run on a model replica: a job.

Running a job on an item twice writes the same bytes under the same key, so any runner may retry.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs.watch import Watch

Item = TypeVar("Item", contravariant=True)
Outcome = TypeVar("Outcome", covariant=True)


class Job(Protocol[Item, Outcome]):
    """Work on items that needs a model replica."""

    @property
    def stage(self) -> str:
        """The stage's name in metrics."""

    def prepare(self, replica: Replica) -> None:
        """Make what all items need, once per process."""

    def run(self, replica: Replica, item: Item, watch: Watch) -> Outcome:
        """Do one item."""
