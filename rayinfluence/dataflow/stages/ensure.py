"""What all stages have in common: a declaration of what is made from what, and one that makes it.

A stage names its items and where the outcomes of each are committed. What is there is done: one
listing of each folder says what is missing, a runner does that, and the listing is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.errors import StorageError
from rayinfluence.storage.store import Listed, Store

Item = TypeVar("Item")
#: Passes after which nothing more of a stage is there than before.
_IDLE_PASSES = 2


@dataclass(frozen=True)
class Place:
    """Where an outcome is committed; its key, or how that begins, says of what it is."""

    store: Store
    key: str


@dataclass(frozen=True)
class Lacking(Generic[Item]):
    """An item, and which of its outcomes are not there, by their numbers."""

    item: Item
    outcomes: tuple[int, ...]


@dataclass(frozen=True)
class Stage(Generic[Item]):
    """What a stage is.

    Attributes:
        name: as it is shown, timed and exported.
        items: what it works on, in order.
        places: where the outcomes of an item are committed, always in the same order.
        work: does what is lacking, on a runner, in any order; yields as items end.
        n_tokens: of an item, for the progress.
        kept: tokens of a lacking item that were done before, in a checkpoint.
        given_up: items that are neither done nor to be tried again; asked after each pass.
        there: the keys of places that a listing of their folder shows to be done. A stage whose
            outcomes are named only when they are made, or do not count by their names alone, has
            its own.
    """

    name: str
    items: Sequence[Item]
    places: Callable[[Item], Sequence[Place]]
    work: Callable[[Sequence[Lacking[Item]], StageProgress], Iterable[Any]]
    n_tokens: Callable[[Item], int] = lambda item: 0
    kept: Callable[[Item], int] = lambda item: 0
    given_up: Callable[[Item], bool] = lambda item: False
    there: Callable[[Mapping[str, Listed]], Container[str]] = lambda listing: listing

    def lacking(self) -> list[Lacking[Item]]:
        """What is not there, from one listing of each folder."""
        folders: dict[tuple[str, str], Container[str]] = {}

        def is_there(place: Place) -> bool:
            folder = place.key.rpartition("/")[0]
            if (place.store.url, folder) not in folders:
                folders[place.store.url, folder] = self.there(place.store.list(folder))
            return place.key in folders[place.store.url, folder]

        found = []
        for item in self.items:
            there = [is_there(place) for place in self.places(item)]
            if not all(there) and not self.given_up(item):
                outcomes = tuple(number for number, done in enumerate(there) if not done)
                found.append(Lacking(item, outcomes))
        return found


def ensure(stage: Stage[Item], progress: ProgressLog) -> None:
    """Do what is lacking of a stage, until nothing is.

    Raises:
        StorageError: the runner did it, and it is still not there.
    """
    idle, before = 0, -1
    while True:
        enter_phase("plan", stage.name)
        lacking = stage.lacking()
        if not lacking:
            return
        idle = idle + 1 if len(lacking) == before else 0
        if idle == _IDLE_PASSES:
            raise not_there(stage.places(lacking[0].item)[lacking[0].outcomes[0]])
        before = len(lacking)
        total = sum(stage.n_tokens(item) for item in stage.items)
        left = sum(stage.n_tokens(one.item) - stage.kept(one.item) for one in lacking)
        with progress.stage(stage.name, total) as told:
            told.skip(total - left)
            for _ in stage.work(lacking, told):
                pass


def not_there(place: Place) -> StorageError:
    """That what a worker wrote is not where the driver looks for it."""
    return StorageError(
        f"{place.store.url}/{place.key} was written, and is not there. Either something else "
        "removes what is written there, or it is not one place for the driver and all workers: a "
        "run directory has to be a folder that all nodes share, or a bucket."
    )
