"""What a process does that walks into a trap; see tests/traps.py."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

#: Names the folder in which traps are set.
TRAPS = "RAYINFLUENCE_TRAPS"


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
