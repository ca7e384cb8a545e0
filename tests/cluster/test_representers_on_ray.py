"""Representer points on Ray: one actor, two and no Ray at all give the same bytes."""

from pathlib import Path
from typing import Any

import pytest

from rayinfluence.dataflow.run import Run
from rayinfluence.testing import tiny_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def made(folder: Path, **runner: Any) -> dict[str, bytes]:
    config = tiny_run(
        folder,
        scan={"methods": ["representer"]},
        runner={"checkpoint_seconds": 0, **runner},
    )
    with Run(config) as run:
        run.all()
    root = Path(config.run)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("features", "last_layer", "queries", "scan", "results")
        for path in sorted(root.glob(f"{folder}/**/*"))
        if path.suffix in (".safetensors", ".parquet")
    }


def test_ray_equals_inline(ray_cluster: None, tmp_path: Path) -> None:
    expected = made(tmp_path / "inline")
    assert sum(key.startswith("features/") for key in expected) > 2
    assert sum(key.startswith("last_layer/") for key in expected) == 1
    for actors in (1, 2):
        assert made(tmp_path / f"ray-{actors}", name="ray", actors=actors) == expected
