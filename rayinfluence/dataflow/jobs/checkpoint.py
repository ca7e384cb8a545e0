"""A lane's sums so far, kept in one object, so that a worker that dies loses minutes, not hours."""

from __future__ import annotations

import time
from collections.abc import Callable

from rayinfluence.dataflow.compute.folding import Fold
from rayinfluence.dataflow.layout import checkpoint_key
from rayinfluence.errors import DamagedError
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_header, read_tensors, write_tensors

#: No more than this part of the time is spent on writing checkpoints.
_SHARE = 0.05


class Pace:
    """When sums, or whatever else is under way, are to be kept.

    Args:
        seconds: least time between two times.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def keep(self, write: Callable[[], None]) -> None:
        """Keep it, if it is time to."""
        started = time.monotonic()
        if started < self._next:
            return
        write()
        now = time.monotonic()
        self._next = now + max(self._seconds, (now - started) / _SHARE)


class Checkpoint:
    """Where the sums of one lane are kept while it is folded.

    Args:
        store: of the factors.
        lane_key: where the lane will be committed.
        lane: the digest of its splits.
        seconds: least time between two checkpoints.
    """

    def __init__(self, store: Store, lane_key: str, lane: str, seconds: float) -> None:
        self._store = store
        self._key = checkpoint_key(lane_key)
        self._lane = lane
        self._pace = Pace(seconds)

    def read(self) -> Fold | None:
        """The sums of an earlier worker; None where there are none, or none that can be used."""
        if not self._store.exists(self._key):
            return None
        try:
            tensors, header = read_tensors(self._store, self._key)
        except DamagedError:
            return None
        return Fold.from_tensors(tensors, header) if header.get("lane") == self._lane else None

    def n_splits(self) -> int:
        """How many splits are in them, by the header alone; 0 where none can be used."""
        if not self._store.exists(self._key):
            return 0
        try:
            header = read_header(self._store, self._key)
        except DamagedError:
            return 0
        return int(header["n_splits"]) if header.get("lane") == self._lane else 0

    def offer(self, fold: Callable[[], Fold]) -> None:
        """Keep the sums, if it is time to."""

        def write() -> None:
            made = fold()
            write_tensors(self._store, self._key, made.tensors, made.header(self._lane))

        self._pace.keep(write)

    def drop(self) -> None:
        """Delete it: the lane is committed."""
        self._store.delete(self._key)
