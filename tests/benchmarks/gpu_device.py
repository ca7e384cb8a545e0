"""The device that is measured, and how: with a clock and nothing that takes long to import."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

T = TypeVar("T")
#: Seconds that are left to a part.
Clock = Callable[[], float]
#: Measures something, and says what it found.
Step = Callable[[], dict[str, Any]]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOY = DEVICE == "cpu"


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds from an idle device to an idle device, and the outcome."""
    synchronize()
    started = time.perf_counter()
    outcome = run()
    synchronize()
    return time.perf_counter() - started, outcome


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak_gib() -> float:
    """The most memory of the device since the last call."""
    if DEVICE == "cpu":
        return 0.0
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)
