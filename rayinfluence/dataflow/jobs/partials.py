"""Partials as objects: one of a split and bank, which its key names."""

from __future__ import annotations

from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors


def write_partial(partial: Partial, store: Store, key: str) -> None:
    """Store a partial as one object."""
    write_tensors(store, key, *partial.to_tensors())


def read_partial(store: Store, key: str) -> Partial:
    """Read a partial.

    Raises:
        DamagedError: it is damaged, or that of another split or bank.
        StorageError: it is missing.
    """
    return Partial.from_tensors(*read_tensors(store, key))
