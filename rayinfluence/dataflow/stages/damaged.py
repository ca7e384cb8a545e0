"""Objects of ours that turn out to be damaged: made again once, and not for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

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


def without_damage(store: Store, work: Callable[[], T], progress: ProgressLog) -> T:
    """Do work that reads what it finds in a store; what is damaged there is made again.

    Args:
        store: whose objects are tensors, and written again by the work where they are missing.
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
        except DamagedError:
            damaged = [key for key in store.list() if _is_damaged(store, key)]
            if not damaged:
                raise
            for key in damaged:
                discarded.discard(store, key)
            progress.note(f"{len(damaged)} damaged objects were discarded; they are made again.")


def _is_damaged(store: Store, key: str) -> bool:
    if not key.endswith(".safetensors"):
        return False
    try:
        for name in tensor_names(store, key):
            read_tensors(store, key, [name])
    except DamagedError:
        return True
    return False
