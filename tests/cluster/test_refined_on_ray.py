"""Queries that a solver refines: one actor, two, turns and no Ray at all give the same bytes."""

from pathlib import Path
from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute import solves_foreseen
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages import refine
from rayinfluence.dataflow.stages.turns import in_turns
from rayinfluence.testing import tiny_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PCG: dict[str, Any] = {"name": "pcg", "steps": 3}


def refined(folder: Path, solver: dict[str, Any], **runner: Any) -> dict[str, bytes]:
    config: RunConfig = tiny_run(
        folder,
        batch_tokens=512,
        scan={"solver": {"sequences": 80, **solver}},
        runner={"checkpoint_seconds": 0, **runner},
    )
    with Run(config) as run:
        run.all()
    root = Path(config.run)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("refined", "queries", "scan", "results")
        for path in sorted(root.glob(f"{folder}/**/*"))
        if path.suffix in (".safetensors", ".parquet")
    }


@pytest.mark.parametrize(
    ("solver", "turns"),
    [
        (PCG, 0),
        (PCG, 1),
        ({"name": "astra", "steps": 6}, 0),
        ({"name": "arnoldi", "steps": 4}, 2),  # of its space, and of queries
    ],
    ids=["pcg", "pcg in turns", "astra", "arnoldi in turns"],
)
def test_ray_equals_inline(
    solver: dict[str, Any],
    turns: int,
    ray_cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = refined(tmp_path / "inline", solver)
    begun: list[int] = []

    def counted(*told: Any) -> Any:
        begun.append(1)
        return in_turns(*told)

    monkeypatch.setattr(refine, "in_turns", counted)
    if turns:
        monkeypatch.setattr(solves_foreseen, "_SECONDS", 0)
    # Two of eight run, as there is room for no more.
    runner = {"actors": 2, "max_actors": 8} if turns else {"actors": 1}
    found = refined(tmp_path / "ray", solver, name="ray", **runner)
    assert len(begun) == turns
    assert sum(key.startswith("refined/") for key in found) >= 4
    assert found == expected
