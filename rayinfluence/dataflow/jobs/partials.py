"""Partials as objects: one of a split and bank, which says in its header what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.errors import DamagedError
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors


def write_partial(partial: Partial, store: Store, key: str, about: Mapping[str, Any]) -> None:
    """Store a partial as one object; ``about`` names the split and the bank."""
    tensors, header = partial.to_tensors()
    write_tensors(store, key, tensors, {**about, **header})


def read_partial(store: Store, key: str, about: Mapping[str, Any]) -> Partial:
    """Read a partial and check that it is whole and is about what it should be.

    Raises:
        DamagedError: it is damaged, or about another split or bank.
        StorageError: it is missing.
    """
    tensors, header = read_tensors(store, key)
    wrong = {name for name, value in about.items() if header.get(name) != value}
    if wrong:
        raise DamagedError(f"{store.url}/{key} is about another {sorted(wrong)[0]}; delete it.")
    return Partial.from_tensors(tensors, header)
