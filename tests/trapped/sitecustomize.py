"""Traps, in every process whose PYTHONPATH has this folder: see tests/traps.py.

Python imports a module of this name when it starts.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from catching import TRAPS, trap

_WATCH = "rayinfluence.dataflow.jobs.watch"


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
