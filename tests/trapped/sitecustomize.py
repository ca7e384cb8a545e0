"""Traps, in every process whose PYTHONPATH has this folder: see tests/traps.py.

Python imports a module of this name when it starts.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

#: Names the folder in which traps are set.
TRAPS = "RAYINFLUENCE_TRAPS"
_WATCH = "rayinfluence.dataflow.jobs.watch"


def trap(phase: str, work: str) -> None:
    """Where a trap is set for this phase, say who is in it and wait to be killed.

    A trap is a file named after the phase, or ``<phase>@<work>``. Who renames it is caught, alone:
    the link ``<trap>.caught`` tells the process id and the work, and it stays until the renamed
    file is deleted.
    """
    folder = os.environ[TRAPS]
    for name in (phase, f"{phase}@{work}"):
        held = Path(folder, f"{name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            Path(folder, name).rename(held)
            # A link is made whole, in one step, and its target may be any text.
            Path(folder, f"{name}.caught").symlink_to(f"{os.getpid()} {work}")
            while held.exists():
                time.sleep(0.02)


class _Observed(importlib.abc.MetaPathFinder):
    """Has the module that tells of phases tell the traps, as soon as it is imported."""

    def find_spec(self, name: str, *_: Any) -> Any:
        if name != _WATCH:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            module.observers.append(trap)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if TRAPS in os.environ:
    sys.meta_path.insert(0, _Observed())
