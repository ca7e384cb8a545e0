"""One contender in a process of its own, told over standard input what to run.

Each line in is a stage; each line out is JSON with seconds, peak memory in MiB and FLOPs, or with
the error. Whatever the contender prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS, Contender
from flops import counted
from shapes import SHAPES


def reset_peak() -> None:
    """Start a new measurement of peak memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: str) -> float:
    """Peak memory since the reset: of the device, or resident where that is the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(contender: Contender, stage: str, device: str) -> dict[str, Any]:
    """Run a stage once."""
    contender.prepare(stage)
    reset_peak()
    start = time.perf_counter()
    contender.run(stage)
    if device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "peak_mib": peak_mib(device)}


def main() -> None:
    """Serve until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a contender may print
    torch.set_num_threads(1)
    name, shape = sys.argv[1], replace(SHAPES[sys.argv[2]], n_sequences=int(sys.argv[3]))
    contender: Contender | None = None
    for line in sys.stdin:
        command, _, stage = line.strip().partition(" ")
        try:
            if contender is None:
                contender = CONTENDERS[name](shape)
            if command == "stages":
                answer: dict[str, Any] = {"stages": contender.stages}
            elif command == "count":
                contender.prepare(stage)
                answer = {"flops": counted(partial(contender.run, stage))}
            else:
                answer = measure(contender, stage, shape.device)
        except Exception as error:
            if "--trace" in sys.argv:
                raise
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
