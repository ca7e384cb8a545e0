"""What a CUDA device shows of us, in one command that fits in minutes.

    python tests/benchmarks/gpu.py [--parts a b c d] [--minutes 8] [--out .bench/gpu]

Parts: a, the numeric suite on the device, errors by dtype, and whether runs repeat bit for bit; b,
whole EK-FAC jobs on Qwen2.5's shapes, and kronfluence beside one of them; c, each pass of a Llama
of 1B beside a plain training step, and profiles; d, eigendecompositions. Where there is no device
all of it runs at toy sizes, so that it works when there is one.

Each part is a process with a time limit of its own; what an earlier one leaves of its time goes to
the later ones. Figures are printed as lines of JSON as soon as they are there, and kept in
<out>/figures.jsonl; what else a part says is in <out>/<part>.log. Exit code 1 where a part failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

_HERE = Path(__file__).resolve().parent
#: Module of each part, and its share of the time.
PARTS = {
    "a": ("gpu_numerics", 0.22),
    "b": ("gpu_jobs", 0.45),
    "c": ("gpu_passes", 0.25),
    "d": ("gpu_eigen", 0.08),
}
#: Measures something, and says what it found.
Step = Callable[[], dict[str, Any]]
#: Of a part's limit, the time in which it begins steps; the rest is for the last of them.
_OWN = 0.85


def main() -> int:
    """Run parts one after another; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path(".bench/gpu"))
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        return run_part(options.run, options.seconds)
    options.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(machine()), flush=True)
    end, failed = time.monotonic() + 60 * options.minutes, []
    with (options.out / "figures.jsonl").open("w") as figures:
        for index, part in enumerate(options.parts):
            shares = [PARTS[later][1] for later in options.parts[index:]]
            limit = (end - time.monotonic()) * shares[0] / sum(shares)
            started = time.monotonic()
            ended = supervise(part, limit, options.out, figures.write)
            figures.flush()
            seconds = round(time.monotonic() - started, 1)
            print(json.dumps({"part": part, "seconds": seconds, "ended": ended}), flush=True)
            if ended != "whole":
                failed.append(part)
    return int(bool(failed))


def machine() -> dict[str, Any]:
    """What this runs on."""
    import torch

    packages = ("torch", "transformers", "numpy", "kronfluence")
    found = {name: importlib.util.find_spec(name) and version(name) for name in packages}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none: toy sizes"
    return {"device": device, "cpus": os.cpu_count(), "cuda": torch.version.cuda, **found}


def supervise(part: str, limit: float, out: Path, keep: Callable[[str], object]) -> str:
    """Run a part in a process of its own, and say how it ended."""
    command = [sys.executable, __file__, "--run", part, "--seconds", str(limit * _OWN)]
    with (out / f"{part}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        late = threading.Event()

        def end() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, end)
        timer.start()
        assert process.stdout is not None
        failed = 0
        for line in process.stdout:
            failed += "error" in json.loads(line)
            keep(line)
            print(line, end="", flush=True)
        code = process.wait()
        timer.cancel()
    if late.is_set():
        return f"stopped after {limit:.0f} s"
    if code:
        lines = (out / f"{part}.log").read_text().strip().splitlines()
        return f"failed with {code}: {lines[-1] if lines else ''}"
    return f"{failed} steps failed" if failed else "whole"


def run_part(part: str, seconds: float) -> int:
    """Be a part: do its steps while there is time, and print what each found."""
    sys.path[:0] = [str(_HERE), str(_HERE.parent / "numerics"), str(_HERE.parent)]
    sys.path.insert(0, str(_HERE.parents[1]))
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library may print
    end = time.monotonic() + seconds
    steps = importlib.import_module(PARTS[part][0]).steps(lambda: end - time.monotonic())
    do(part, steps, end, stdout)
    return 0


def do(part: str, steps: Iterable[tuple[str, Step]], end: float, out: TextIO) -> None:
    """Do steps one after another while there is time; one that fails ends no other."""
    for name, step in steps:
        started = time.monotonic()
        if started > end:
            found: dict[str, Any] = {"skipped": "no time was left"}
        else:
            try:
                found = step()
            except Exception as error:
                traceback.print_exc()
                found = {"error": f"{type(error).__name__}: {error}"[:500]}
        line = {"part": part, "step": name, **found}
        line["step_seconds"] = round(time.monotonic() - started, 2)
        print(json.dumps(line), file=out, flush=True)


if __name__ == "__main__":
    sys.exit(main())
