"""A local Ray for tests, small and quiet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def local_ray(num_cpus: int = 3) -> Iterator[None]:
    """Start a local Ray for the block; runs inside it join it instead of starting their own.

    Args:
        num_cpus: at least one more than the replicas of any run.
    """
    import ray

    ray.init(
        "local",  # not a cluster that happens to run on this machine
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        logging_level="error",
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()
