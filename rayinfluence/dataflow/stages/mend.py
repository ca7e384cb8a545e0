"""What is damaged is found when it is read; then all that is beside it is looked at, once."""

from __future__ import annotations

from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.errors import DamagedError
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors


def discard_damaged(runner: Runner, store: Store) -> set[str]:
    """Delete the damaged objects of tensors below a store; their stages make them again.

    Returns:
        Their keys.
    """
    keys = sorted(key for key in store.list() if key.endswith(".safetensors"))
    found = runner.tasks(is_damaged, [(store, key) for key in keys])
    damaged = {key for key, bad in zip(keys, found, strict=True) if bad}
    for key in damaged:
        store.delete(key)
    return damaged


def is_damaged(item: tuple[Store, str]) -> bool:
    """Whether an object cannot be read, or is not what was written."""
    try:
        read_tensors(*item)
    except DamagedError:
        return True
    return False
