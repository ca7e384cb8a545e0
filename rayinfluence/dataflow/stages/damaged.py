"""Objects of ours that turn out to be damaged: made again once, and not for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rayinfluence.dataflow.layout import TENSORS
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import DamagedError, StorageError
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, tensor_names

T = TypeVar("T")


class Discarded:
    """Deletes damaged objects so that they are made again, each of them once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def discard(self, store: Store, key: str) -> None:
        """Delete a damaged object.

        Raises:
            StorageError: it was made again since it was deleted, and is damaged again.
        """
        place = f"{store.url}/{key}"
        if place in self._seen:
            raise StorageError(
                f"{place} is damaged again after it was made again: what is read back is not what "
                "was written. Look at the disk (its log, its free space, its memory) or, of object "
                "storage, at the server and at a proxy before it; then run the same command again: "
                "what is whole is kept."
            )
        self._seen.add(place)
        store.delete(key)


def without_damage(
    runner: Runner, stores: Sequence[Store], work: Callable[[], T], progress: ProgressLog
) -> T:
    """Do work that reads what it finds in some stores; what is damaged there is made again.

    That is found when it is read; only then is all that is beside it looked at.

    Args:
        runner: looks at it.
        stores: whose objects are tensors, and written again by the work where they are missing.
        work: begins from what is there each time.
        progress: told of it.

    Raises:
        DamagedError: something else is damaged.
        StorageError: an object is damaged again.
    """
    discarded = Discarded()
    while True:
        try:
            return work()
        except DamagedError as error:
            places = [(store, key) for store in stores for key in store.list()]
            places = [place for place in places if place[1].endswith(TENSORS)]
            found = runner.tasks(is_damaged, places)
            damaged = [place for place, bad in zip(places, found, strict=True) if bad]
            if not damaged:
                raise
            for place in damaged:
                discarded.discard(*place)
            progress.warn(f"{error} {len(damaged)} damaged objects are made again now.")


def is_damaged(item: tuple[Store, str]) -> bool:
    """Whether an object cannot be read, or is not what was written there; a tensor at a time."""
    store, key = item
    try:
        for name in tensor_names(store, key):
            read_tensors(store, key, [name])
    except DamagedError:
        return True
    return False
