"""Workers import the module of a function that queries ask for, where their path has it."""

import json
from pathlib import Path

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.testing import tiny_run
from rayinfluence.testing.cluster import local_ray

pytestmark = pytest.mark.cluster

BODY = "    return logits[first - 1, tokens[first]] - logits[first - 1].max()\n"


def test_workers_import_the_function_that_queries_ask_for(
    ray_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers have the path that their cluster was started with."""
    (tmp_path / "margins_of_ours.py").write_text(f"def margin(logits, tokens, first):\n{BODY}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    config = tiny_run(tmp_path, query_function="margins_of_ours:margin")
    found = []
    with local_ray(num_cpus=2):
        for runner in ({"name": "inline"}, {"name": "ray", "actors": 1}):
            values = {**config.model_dump(), "run": str(tmp_path / str(runner["name"]))}
            values["runner"] |= runner
            with Run(RunConfig.parse(values)) as run:
                results = run.all()["ekfac"]
            assert {row["unit"] for row in results.queries.values()} == {"that of query_function"}
            found.append(json.dumps(results.survivors.to_pylist(), default=str))
    assert found[0] == found[1]
