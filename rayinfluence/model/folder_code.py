"""Python code that a model's folder brings (`trust_remote_code`), on its way to other processes.

transformers copies such code into a cache of this machine and imports it from there; a worker knows
neither the copy nor, on another node, the disk that it is on. So the sources travel with the model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

from rayinfluence.registered import PACKAGE


class FolderCode:
    """The modules of folders that this process has imported; in a worker they can be imported.

    What is pickled after it, in the same pickle, may be of their classes.

    Args:
        sources: by module name; those of packages too.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = dict(sources)

    @classmethod
    def imported(cls) -> FolderCode:
        """All that this process has imported so far."""
        names = [name for name in sys.modules if name.split(".")[0] == PACKAGE]
        sources = {name: _source(sys.modules[name]) for name in names}
        # A module is imported by its file, whether or not the packages around it were.
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts)):
                sources.setdefault(".".join(parts[:end]), "")
        return cls(sources)

    def __reduce__(self) -> tuple[Any, ...]:
        return _install, (self.sources,)


def _install(sources: dict[str, str]) -> FolderCode:
    """Let this process import the modules."""
    _finder.sources |= sources
    if sources and _finder not in sys.meta_path:
        # Before the disk, where there may be another version.
        sys.meta_path.insert(0, _finder)
    return FolderCode(sources)


class _Finder(MetaPathFinder, InspectLoader):
    def __init__(self) -> None:
        self.sources: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in self.sources else None

    def get_source(self, fullname: str) -> str:
        return self.sources[fullname]

    def is_package(self, fullname: str) -> bool:
        return any(name.startswith(f"{fullname}.") for name in self.sources)


_finder = _Finder()


def _source(module: ModuleType) -> str:
    loader = getattr(module.__spec__, "loader", None)
    return (loader.get_source(module.__name__) or "") if isinstance(loader, InspectLoader) else ""
