"""Commands measured in turns: while one works, all processes of the others are stopped.

The speed of a machine that is shared with others can change by a third within a minute. Turns of
some seconds let everybody have as much of its good and its bad times.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil

#: A turn is about one split, and much longer than it takes to wake up.
_TURN_SECONDS = 5.0


class Contestant:
    """Scans that run at the same time, each in a process of its own and whatever that starts.

    Args:
        files: their configurations.
        runs: their run directories.
    """

    def __init__(self, files: Sequence[Path], runs: Sequence[Path]) -> None:
        self._runs = runs
        self._drivers = [
            subprocess.Popen(
                [sys.executable, "-m", "rayinfluence", "scan", str(file)],
                stderr=subprocess.DEVNULL,
                # Turns are ended by the benchmark, not by the key that ends it.
                start_new_session=True,
            )
            for file in files
        ]
        self._clock = 0.0
        self._since = time.time()
        self._seen: list[dict[Path, float]] = [{} for _ in runs]

    def warm_up(self, n_splits: int) -> None:
        """Let each of them commit some splits, and stop them."""
        while min(len(_partials(run)) for run in self._runs) < n_splits:
            assert all(driver.poll() is None for driver in self._drivers), "ended too early"
            time.sleep(0.1)
        self._stop()

    def turn(self) -> None:
        """Let them work for a while."""
        self._signal(signal.SIGCONT)
        self._since = time.time()
        time.sleep(_TURN_SECONDS)
        self._stop()
        assert all(driver.poll() is None for driver in self._drivers), "too few splits"

    def splits_at(self, clocks: Sequence[float]) -> np.ndarray:
        """Splits that they had done, together, at some times of their own clock.

        It stands still while they are stopped. Between two commits a split is done evenly.

        Raises:
            ValueError: a time is not between two commits of each of them.
        """
        for seen in self._seen:
            if not min(seen.values()) <= min(clocks) <= max(clocks) <= max(seen.values()):
                raise ValueError("the splits that were under way at a mark were not committed.")
        done = [
            np.interp(clocks, sorted(seen.values()), np.arange(1, len(seen) + 1))
            for seen in self._seen
        ]
        return np.sum(done, axis=0)

    @property
    def clock(self) -> float:
        """Seconds for which they have worked."""
        return self._clock

    def end(self) -> None:
        """Terminate them, and wait until everything that they started is gone.

        Not an interrupt: who starts the benchmark in the background may have it ignored.
        """
        started = self._processes()
        self._signal(signal.SIGCONT)
        for driver in self._drivers:
            driver.terminate()
            driver.wait()
        psutil.wait_procs(started, timeout=30)

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        start, self._clock = self._clock, self._clock + time.time() - self._since
        for seen, run in zip(self._seen, self._runs, strict=True):
            for path in _partials(run):
                seen.setdefault(path, start + path.stat().st_mtime - self._since)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def _processes(self) -> list[psutil.Process]:
        alive = [driver for driver in self._drivers if driver.poll() is None]
        parents = [psutil.Process(driver.pid) for driver in alive]
        return parents + [child for one in parents for child in one.children(recursive=True)]


def _partials(run: Path) -> list[Path]:
    return list(run.glob("scan/*/partials/[!.]*"))
