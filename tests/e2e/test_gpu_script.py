"""`make gpu` works when there is a device to run it on: at toy sizes, on a CPU."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(out: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Its exit code, and the lines that it printed."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.deploy  # a process of its own, and most of a minute
@pytest.mark.timeout(600)
def test_every_part_prints_its_figures(tmp_path: Path) -> None:
    code, lines = script(tmp_path, "--minutes", "9")
    ended = {line["part"]: line["ended"] for line in lines if "ended" in line}
    assert ended == dict.fromkeys("abcd", "whole"), lines
    assert code == 0
    steps = {(line["part"], line["step"]): line for line in lines if "step" in line}
    assert not [line for line in steps.values() if "error" in line or "skipped" in line]
    kept = (tmp_path / "figures.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == list(steps.values())

    assert steps["a", "suite"]["outcomes"] == {"passed": 21}
    assert steps["a", "errors, data labels"]["float64"]["l2"] < 1e-9
    assert steps["a", "twice, bfloat16, deterministic"]["scan"]["same"]
    job = steps["b", "0.5B, MLP, float32"]
    stages = ["covariance", "eigen", "lambda"]
    for n in (1, 32):
        stages += [f"queries-{n}", f"scan-{n}", f"second pass-{n}"]
    assert all(job[stage]["seconds"] > 0 for stage in stages)
    assert job["scan-32"]["of_peak"] > 0
    assert steps["b", "0.5B, MLP, float32, kronfluence"]["scan-1"]["seconds"] > 0
    assert steps["c", "scan-10"]["ratio"][0] > 0
    assert steps["c", "profile of scan-10"]["top"]
    assert any(step.startswith("cpu, float64, 1 threads") for part, step in steps if part == "d")


def test_a_part_that_is_late_is_stopped_and_the_others_run(tmp_path: Path) -> None:
    code, lines = script(tmp_path, "--parts", "a", "d", "--minutes", "0.01")
    assert code == 1
    assert [line["part"] for line in lines if "ended" in line] == ["a", "d"]
    assert all(line["ended"].startswith("stopped after") for line in lines if "ended" in line)


def test_a_step_that_fails_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    def fails() -> dict[str, Any]:
        raise ValueError("no such kernel")

    out = io.StringIO()
    steps = [("first", fails), ("second", lambda: {"seconds": 1.0})]
    gpu.do("a", steps, time.monotonic() + 60, out)
    gpu.do("a", steps[1:], time.monotonic() - 1, out)
    first, second, late = [json.loads(line) for line in out.getvalue().splitlines()]
    assert first["error"] == "ValueError: no such kernel"
    assert second["seconds"] == 1.0
    assert late["skipped"] == "no time was left"
