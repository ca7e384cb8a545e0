"""A finished run on the model that its recipe makes, to leave something out of."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.testing import tiny_run


def log() -> ProgressLog:
    """Whose lines nobody sees."""
    return ProgressLog(Console(file=io.StringIO(), width=1000))


def configured(folder: Path, seeds: list[int]) -> RunConfig:
    """A run on the model that its recipe makes."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"start": str(folder / "start"), "epochs": 2, "batch": 8}
    evaluation = {"options": options, "seeds": seeds}
    scan = {"methods": ["ekfac", "bm25"], "top": 4}
    config = tiny_run(folder, 20, evaluation=evaluation, scan=scan)
    shutil.move(folder / "model", folder / "start")
    with open_farm(config, log()) as farm:
        farm.bank([])
    with Run(config, log()) as run:
        run.all()
    return config
