"""Who counts for the driver is no one that work is lost with."""

from pathlib import Path

import pytest
import ray

from rayinfluence.dataflow.runners.ray.tally import Tally
from rayinfluence.testing.cluster import local_ray

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_a_tally_that_is_killed_is_there_again(ray_token: Path) -> None:
    with local_ray(num_cpus=1):
        tally = Tally.remote()  # type: ignore[attr-defined]
        assert [ray.get(tally.begin.remote("work")) for _ in range(2)] == [1, 2]
        ray.kill(tally, no_restart=False)
        numbers = [2]
        # It dies a moment later, and may be asked before.
        while not numbers[1:] or numbers[-1] > numbers[-2]:
            numbers.append(ray.get(tally.begin.remote("work")))
        assert numbers[-1] == 1
        ray.get(tally.hear.remote(7, {}))
        assert ray.get(tally.take.remote()) == (7, {})
