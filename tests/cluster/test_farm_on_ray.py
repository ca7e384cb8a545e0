"""Models that Ray's workers train are those of one process, whoever is killed meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.testing import tiny_run
from rayinfluence.testing.cluster import local_ray

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

DRIVER = """
import sys
from rayinfluence.config import RunConfig
from rayinfluence.evaluation.farm import open_farm
with open_farm(RunConfig.load(sys.argv[1])) as farm:
    farm.bank(farm.planned())
"""
#: A recipe whose worker is killed once, by a mark that is not there then.
DEADLY = """
import os, signal
from pathlib import Path
from rayinfluence.evaluation.new_model import ModelSettings, new_model
from rayinfluence.evaluation.training import TrainingSettings, train

def deadly(sequences, weights, seed):
    model = new_model(ModelSettings(64, 16, 8, 1, 2), seed)
    loss = train(model, sequences, seed, TrainingSettings(1, 8, threads=1), weights_N=weights)
    mark = Path(os.environ["DEADLY_MARK"])
    if weights.min() == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return model, loss
"""


def farmed(folder: Path, runner: str, **evaluation: Any) -> RunConfig:
    folder.mkdir()
    options = {"start": str(folder / "start"), "epochs": 2, "batch": 8}
    values = {"options": options, "half": 6, "drop": {0.1: 2}, "seeds": [0, 1], **evaluation}
    config = tiny_run(folder, 40, evaluation=values, runner={"name": runner, "actors": 2})
    shutil.move(folder / "model", folder / "start")
    return config


def harvest(config: RunConfig) -> None:
    with open_farm(config, ProgressLog(quiet=True)) as farm:
        farm.bank(farm.planned())


def objects(config: RunConfig) -> dict[str, Path]:
    folder = Path(config.run) / "evaluation"
    found = {str(path.relative_to(folder)): path for path in folder.rglob("[!.]*.*")}
    return {key: path for key, path in found.items() if not key.endswith("took.json")}


def contents(config: RunConfig) -> dict[str, bytes]:
    return {key: path.read_bytes() for key, path in objects(config).items()}


def test_two_workers_train_what_one_process_trains(ray_token: Path, tmp_path: Path) -> None:
    alone, together = farmed(tmp_path / "alone", "inline"), farmed(tmp_path / "both", "ray")
    harvest(alone)
    with local_ray(num_cpus=3):
        harvest(together)
    assert len(objects(alone)) == 2 * 8 + 2 * 2 + 1
    assert contents(together) == contents(alone)
    model = "model.safetensors"
    ours, theirs = (Path(config.model, model).read_bytes() for config in (together, alone))
    assert ours == theirs


def test_a_training_whose_worker_is_killed_is_done_again(
    ray_token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "deadly_recipe.py").write_text(DEADLY)
    monkeypatch.setenv("DEADLY_MARK", str(mark))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    recipe = {"recipe": "deadly_recipe:deadly", "drop": {}, "half": 4, "seeds": [0]}
    alone, killed = (
        farmed(tmp_path / name, name, **recipe, options={"start": str(tmp_path / name / "start")})
        for name in ("inline", "ray")
    )
    mark.touch()
    harvest(alone)
    mark.unlink()
    with local_ray(num_cpus=3):
        harvest(killed)
    assert mark.exists()
    assert contents(killed) == contents(alone)


def test_a_driver_that_is_killed_goes_on_where_it_was(ray_token: Path, tmp_path: Path) -> None:
    more = {"half": 30, "drop": {}, "seeds": [0]}
    alone, killed = (
        farmed(tmp_path / "alone", "inline", **more),
        farmed(tmp_path / "killed", "ray", **more),
    )
    harvest(alone)
    path = tmp_path / "run.yaml"
    path.write_text(killed.model_dump_json())
    driver = start(path)
    while len(objects(killed)) < 10 and driver.poll() is None:
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    last = -1
    while last != len(objects(killed)):  # its workers may finish what they are at
        last = len(objects(killed))
        time.sleep(3)
    before = {key: path.stat().st_mtime_ns for key, path in objects(killed).items()}
    assert 10 <= len(before) < len(objects(alone)) - 1
    assert start(path).wait(timeout=200) == 0
    after = objects(killed)
    assert {key: after[key].stat().st_mtime_ns for key in before} == before
    assert contents(killed) == contents(alone)


def start(path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", DRIVER, str(path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
