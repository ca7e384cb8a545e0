import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayinfluence.testing.cluster import local_ray


@pytest.fixture(scope="session")
def ray_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A token of the tests' own, so that Ray writes none into the user's home."""
    path = tmp_path_factory.mktemp("ray") / "token"
    path.write_text(secrets.token_hex(32))
    previous = os.environ.get("RAY_AUTH_TOKEN_PATH")
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    yield path
    if previous is None:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
    else:
        os.environ["RAY_AUTH_TOKEN_PATH"] = previous


@pytest.fixture(scope="module")
def ray_cluster(ray_token: Path) -> Iterator[None]:
    """A local Ray that the runs of a module share: starting one takes seconds."""
    with local_ray(num_cpus=3):
        yield
