"""What is measured on Ray is what is measured in one process."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.display.as_json import json_text
from rayinfluence.evaluation.contenders import contenders
from rayinfluence.evaluation.evaluate import evaluate
from rayinfluence.evaluation.shapley.valuing import value_groups
from rayinfluence.testing import tiny_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
VALUED = {"key": "source", "values": ["shapley", "banzhaf"], "by": "sampling", "neighbours": 2}
WANTED = {"half": 2, "add": 2, "removal": {"queries": 1}, "tail_patch": 2}


def configured(folder: Path, runner: str, **wanted: Any) -> RunConfig:
    """A tiny run whose model the recipe makes."""
    folder.mkdir()
    section = {"options": {"start": str(folder / "start"), "epochs": 1, "batch": 8}, **wanted}
    config = tiny_run(folder, 20, evaluation=section, runner={"name": runner, "actors": 2})
    shutil.move(folder / "model", folder / "start")
    return config


def measured(folder: Path, runner: str) -> str:
    """All figures; what they took is another matter."""
    config = configured(folder, runner, **WANTED)
    # A gradient method, one of texts, and the baselines that are no methods of a scan.
    names = ("ekfac", "bm25", "hidden_state", "random")
    some = [one for one in contenders(config) if one.name in names]
    found = evaluate(config, some, ProgressLog(quiet=True))
    methods = tuple(replace(one, seconds=None, peak_bytes=None) for one in found.methods)
    return json_text(replace(found, methods=methods).to_json())


@pytest.mark.usefixtures("ray_cluster")
def test_figures_on_two_actors_are_those_of_one_process(tmp_path: Path) -> None:
    assert measured(tmp_path / "ray", "ray") == measured(tmp_path / "inline", "inline")


@pytest.mark.usefixtures("ray_cluster")
def test_values_of_groups_on_two_actors_are_those_of_one_process(tmp_path: Path) -> None:
    found = [
        value_groups(configured(tmp_path / runner, runner, shapley=VALUED), ProgressLog(quiet=True))
        for runner in ("ray", "inline")
    ]
    assert found[0] == found[1]
