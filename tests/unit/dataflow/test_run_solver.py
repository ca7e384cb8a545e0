"""Whole runs whose queries a solver refines: the same scores by all of them, and the same bytes."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from whole_runs import Change, Execute

from rayinfluence import load_results
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.testing import tiny_run

MODULES = ["transformer.h.1.mlp.c_proj"]
EXACT = {"sequences": 80, "tolerance": 1e-10, "steps": 600}


def configured(folder: Path, solver: Any, **scan: Any) -> RunConfig:
    """588 weights in float64; batches of some sequences, three lanes of the sample at most."""
    return tiny_run(
        folder,
        dtype="float64",
        modules=MODULES,
        batch_tokens=1024,
        scan={"solver": solver, "split_tokens": 400, **scan},
    )


@pytest.fixture(scope="module")
def by_cg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    folder = tmp_path_factory.mktemp("cg")
    solver = {"name": "cg", **EXACT}
    config = configured(folder, solver, rank="dense", scores="dense")
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.all()
    return folder, config


def dense(run: Path) -> np.ndarray:
    """All scores [N, Q]."""
    results = load_results(str(run), "ekfac")
    columns = [results.scores(query).to_pandas()["score"] for query in results.queries]
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(
    "solver",
    [
        {"name": "explicit", "sequences": 80},
        {"name": "pcg", **EXACT},
        {"name": "arnoldi", "sequences": 80, "steps": 588},
    ],
    ids=lambda solver: solver["name"],
)
def test_dense_scores_are_those_of_an_explicit_solve(
    by_cg: tuple[Path, RunConfig], tmp_path: Path, solver: Any, change: Change, execute: Execute
) -> None:
    """Of the same factors and the same sample, beside what another solver left."""
    folder, config = by_cg
    shutil.copytree(folder, tmp_path / "copy")
    values = json.loads(config.model_dump_json().replace(str(folder), str(tmp_path / "copy")))
    execute(change(RunConfig.parse(values), scan={"solver": solver}), True)
    expected = dense(folder / "run")
    found = dense(tmp_path / "copy" / "run")
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
