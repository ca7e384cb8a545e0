"""The scripts and configurations in jobs/."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayinfluence.config import RunConfig

JOBS = Path(__file__).parents[3] / "jobs"


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_thin(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 40


@pytest.mark.parametrize("path", sorted(JOBS.rglob("*.yaml")), ids=lambda path: path.name)
def test_configurations_are_configurations(path: Path) -> None:
    config = RunConfig.load(path)
    assert config.runner.max_actors is None or config.runner.max_actors >= config.runner.actors


def run(script: str, config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(JOBS / script), "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(JOBS.parent)},
    )


def test_the_report_of_a_run_that_is_done(done: tuple[Path, RunConfig]) -> None:
    folder, config = done
    (folder / "run" / "report.html").unlink(missing_ok=True)
    (folder / "run.yaml").write_text(config.model_dump_json())
    outcome = run("report.py", folder / "run.yaml")
    assert outcome.returncode == 0, outcome.stderr
    assert (folder / "run" / "report.html").exists()


def test_a_wrong_configuration_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("run: r\nmodel: m\nrunn: x")
    outcome = run("report.py", tmp_path / "run.yaml")
    assert (outcome.returncode, "unknown key 'runn'" in outcome.stderr) == (2, True)
