"""Traps: each holds the next process that enters a phase of its work.

Processes that are started with :meth:`Traps.environment` walk into them: Python imports
tests/trapped/sitecustomize.py there, which watches what the package tells its observers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path


class Traps:
    """A folder of traps.

    Args:
        folder: new; processes find its name in their environment.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def environment(self) -> dict[str, str]:
        """What processes need to be caught."""
        paths = [str(Path(__file__).parent / "trapped"), os.environ.get("PYTHONPATH", "")]
        return {"RAYINFLUENCE_TRAPS": str(self.folder), "PYTHONPATH": os.pathsep.join(paths)}

    def set_trap(self, name: str) -> None:
        """Set a trap for the next to enter a phase, or a phase of one piece of work."""
        (self.folder / name).touch()

    def caught(self, name: str, seconds: float = 300) -> tuple[int, str]:
        """Wait for somebody in a trap; its process id and its work."""
        link = self.folder / f"{name}.caught"
        wait(link.is_symlink, seconds, f"nobody came to {name}")
        pid, work = os.readlink(link).split(" ", 1)  # noqa: PTH115
        return int(pid), work

    def next_caught(self, names: Iterable[str], seconds: float = 300) -> str:
        """Wait for somebody in one of some traps; its name.

        Work that is dealt out comes in any order.
        """
        links = {name: self.folder / f"{name}.caught" for name in names}
        what = f"nobody came to any of {', '.join(links)}"
        wait(lambda: any(link.is_symlink() for link in links.values()), seconds, what)
        return next(name for name, link in links.items() if link.is_symlink())

    def keep(self, name: str) -> None:
        """Set a trap again and leave in it who is in it."""
        (self.folder / f"{name}.caught").unlink()
        self.set_trap(name)

    def free(self, name: str) -> None:
        """Let go who is in a trap, if he lives."""
        for path in self.folder.glob(f"{name}.*"):
            path.unlink()

    def release(self) -> None:
        """Open all traps."""
        for path in self.folder.iterdir():
            path.unlink()


def wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {seconds:.0f} s")
        time.sleep(0.05)
