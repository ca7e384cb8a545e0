import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rayinfluence import cli
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.testing import tiny_run

#: What a run directory says of time, paths and versions; all else is a function of the inputs.
ABOUT_THE_RUN = ("config.json", "stages.json")
OF_THE_CORPUS = ("corpus/log/", "corpus/fragments/", "corpus/rolled/")


def about_the_run(key: str) -> bool:
    """Whether an object says such things."""
    manifest = key.startswith("results/") and key.endswith("/manifest.json")
    return key in ABOUT_THE_RUN or key.startswith(OF_THE_CORPUS) or manifest


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    """A run that is done; nobody may change it."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_run(folder)
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.all()
    return folder, config


def copied(source: Path, config: RunConfig, folder: Path) -> RunConfig:
    """The configuration of a copy of a run, in another folder."""
    shutil.copytree(source, folder)
    values = json.dumps(config.model_dump()).replace(str(source), str(folder))
    return RunConfig.parse(json.loads(values))


@pytest.fixture
def copy_of() -> Callable[[Path, RunConfig, Path], RunConfig]:
    """Copies a run that nobody may change, to change it."""
    return copied


@pytest.fixture
def done(finished: tuple[Path, RunConfig], tmp_path: Path) -> tuple[Path, RunConfig]:
    """A copy of the run that is done, to change."""
    folder = tmp_path / "done"
    return folder, copied(*finished, folder)


@pytest.fixture
def say(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a command; returns its exit code, what it printed, and what it said of errors."""
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: Any) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["rayinfluence", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        printed, errors = capfd.readouterr()
        return code, printed, errors

    return run


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Everything in a run directory that follows from the inputs alone, by key."""

    def read(run: Path) -> dict[str, bytes]:
        files = {str(p.relative_to(run)): p for p in run.rglob("*") if p.is_file()}
        return {
            key: path.read_bytes()
            for key, path in files.items()
            if not about_the_run(key) and not key.startswith("preflight/")
        }

    return read
