"""What a last layer sees, gone through part by part: no worker has to hold all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from rayinfluence.dataflow.compute.refit_foreseen import HELD_BYTES
from rayinfluence.influence.representers import Points
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors


class StoredPoints:
    """Points in the order of their parts, of which the first are held once they were read.

    While one part is gone through the next is read.

    Args:
        store: of the parts.
        keys: of these, in order.
        device: where points are wanted.
    """

    def __init__(self, store: Store, keys: Sequence[str], device: torch.device) -> None:
        self._store, self._keys, self._device = store, keys, device
        self._held: list[Points] = []
        self._room = HELD_BYTES[device.type]

    def __iter__(self) -> Iterator[Points]:
        """Those of each part that has some."""
        yield from filter(len, self._held)
        rest = self._keys[len(self._held) :]
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[Points] | None = None
            for key, following in zip(rest, [*rest[1:], None], strict=False):
                points = (ahead or reader.submit(self._read, key)).result()
                ahead = reader.submit(self._read, following) if following else None
                points = points.to(self._device)
                self._hold(points)
                if len(points):
                    yield points

    def _hold(self, points: Points) -> None:
        """Keep a part if all before it were kept and there is room."""
        self._room -= points.n_bytes
        if self._room >= 0:
            self._held.append(points)

    def _read(self, key: str) -> Points:
        tensors, _ = read_tensors(self._store, key)
        return Points(tensors["features"], tensors["labels"], tensors.get("weights"))
