"""Workers build nothing: they import the class of a module, and see that its source is the same."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from torch import nn

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.testing.cluster import local_ray

pytestmark = pytest.mark.cluster

BODY = """from torch import nn


class Network(nn.Sequential):
    pass


def build():
    return Network(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
"""


def test_a_module_of_one_s_own_has_the_same_results_on_ray(
    ray_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network_of_ours.py").write_text(BODY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (tmp_path / "model").mkdir()
    made = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    save_file(made.state_dict(), tmp_path / "model" / "model.safetensors")
    numbers = np.random.default_rng(0).normal(size=(60, 3)).tolist()
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "y"], *numbers])
    (tmp_path / "queries.jsonl").write_text(
        json.dumps({"query_id": "q", "features": [1, -1], "target": 2})
    )
    found = []
    with local_ray(num_cpus=2):
        for runner in ("inline", "ray"):
            values = {
                "run": str(tmp_path / runner),
                "model": str(tmp_path / "model"),
                "model_function": "network_of_ours:build",
                "objective": "regression",
                "queries": str(tmp_path / "queries.jsonl"),
                "corpus": {
                    "documents": [str(tmp_path / "rows.csv")],
                    "feature_columns": ["a", "b"],
                    "label_column": "y",
                    "row_group_tokens": 30,
                },
                "scan": {"split_tokens": 60},
                "runner": {"name": runner},
            }
            with Run(RunConfig.parse(values)) as run:
                results = run.all()["ekfac"]
            found.append(json.dumps(results.survivors.to_pylist(), default=str))
    assert '"score"' in found[0]
    assert found[0] == found[1]
