"""Sixteen threads that create the same object at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

from rayinfluence.storage.store import Store


def assert_one_creates(store: Store, key: str) -> None:
    """Exactly one of them is told that it did, and the object is its own."""
    start = threading.Barrier(16)

    def create(number: int) -> bool:
        start.wait()
        return store.create(key, b"%d" % number)

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(create, range(16)))
    assert sum(made) == 1
    assert store.read(key) == b"%d" % made.index(True)
