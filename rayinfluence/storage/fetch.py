"""Copying objects to a folder: a model from a bucket to where it can be loaded."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from rayinfluence.errors import StorageError
from rayinfluence.storage.store import Store


def fetch(store: Store, folder: Path) -> int:
    """Copy every object of a store into a folder, whole files only; returns how many were copied.

    A file that is there with an object's size is taken for it, so that a second start copies
    nothing.

    Raises:
        StorageError: the store is empty, cannot be read, or holds a key that leads out of the
            folder.
    """
    objects = store.list()
    if not objects:
        raise StorageError(f"{store.url} holds nothing; check the address.")
    copied = 0
    for key, listed in objects.items():
        target = folder / key
        if not target.resolve().is_relative_to(folder.resolve()):
            raise StorageError(f"{store.url}/{key} would be written outside {folder}; rename it.")
        if target.exists() and target.stat().st_size == listed.size:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{uuid.uuid4().hex}.part"
        try:
            with store.open(key) as source, temporary.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 24)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        copied += 1
    return copied
