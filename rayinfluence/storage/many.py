"""Asking after many files at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rayinfluence.storage.store import Listed, Store

#: Each thread has a client of its own, which takes a tenth of a second to make.
_THREADS = 16
_FEW = 8


def info_all(files: Sequence[Store]) -> list[Listed]:
    """Size, time and tag of files, in their order; servers are asked side by side.

    Raises:
        StorageError: one of them is not there.
    """
    if sum(not file.is_local for file in files) < _FEW:
        return [file.info() for file in files]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(Store.info, files))
