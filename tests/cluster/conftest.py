from collections.abc import Iterator
from pathlib import Path

import pytest

from rayinfluence.testing.cluster import local_ray


@pytest.fixture(scope="module")
def ray_cluster(ray_token: Path) -> Iterator[None]:
    """A local Ray that the runs of a module share: starting one takes seconds."""
    with local_ray(num_cpus=3):
        yield
