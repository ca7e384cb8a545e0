"""Part a: is it right on the device, in which dtype by how much, and the same twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from gpu_device import DEVICE, TOY, Clock, Step, timed
from gpu_shapes import BATCH, REPEATED
from harness import table
from precision import Distance, scores
from shapes import MLP_PATTERNS

from rayinfluence.dataflow.compute.folding import (
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.compute.replica import Numerics, Replica, own_labels
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.jobs.calibrate import random_bank, trivial_bases
from rayinfluence.influence.bank import QueryBank
from rayinfluence.model.modules import track

_TESTS = Path(__file__).resolve().parents[1]
# cuBLAS asks for it where algorithms have to be deterministic, before its first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def steps(clock: Clock) -> Iterator[tuple[str, Step]]:
    """The suite, errors by dtype, and repeats under three settings."""
    for labels in ("data",) if TOY else ("data", "sampled"):
        yield f"errors, {labels} labels", lambda labels=labels: errors(labels)
    for dtype in ("bfloat16", "float32"):
        for setting in SETTINGS:
            yield f"twice, {dtype}, {setting}", lambda d=dtype, s=setting: twice(d, s)
    yield "suite", lambda: suite(clock())


def suite(seconds: float) -> dict[str, Any]:
    """tests/numerics in float64 and, where they say so, narrower; on the device.

    What there is no time for is not run, and says so.
    """
    chosen = ["test_products.py"] if TOY else ["."]
    command = [sys.executable, "-m", "pytest", "-v", "-c", os.devnull, "-p", "no:cacheprovider"]
    command += ["--rootdir", str(_TESTS), "--confcutdir", str(_TESTS / "numerics")]
    # Those that are left out hold arrays and objects, and nothing on a device.
    for name in ("test_top_k_laws.py", "test_partial_objects.py", "test_error_bars.py"):
        command += ["--ignore", str(_TESTS / "numerics" / name)]
    command += [] if TOY else ["-n", str(os.cpu_count())]
    command += [str(_TESTS / "numerics" / name) for name in chosen]
    environment = {**os.environ, "RAYINFLUENCE_TEST_DEVICE": DEVICE, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(_TESTS.parent), str(_TESTS), *sys.path])
    with tempfile.TemporaryFile("w+") as output:
        try:
            subprocess.run(
                command, env=environment, stdout=output, timeout=max(30.0, seconds), check=False
            )
            whole = True
        except subprocess.TimeoutExpired:
            whole = False
        output.seek(0)
        lines = output.read().splitlines()
    ended = (re.search("PASSED|FAILED|ERROR|SKIPPED", line) for line in lines if "%]" in line)
    outcomes = Counter(match.group().lower() for match in ended if match)
    failures = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"whole": whole, "outcomes": dict(outcomes), "failures": failures[:12]}


def errors(labels: str) -> dict[str, Any]:
    """Scores of a whole small job on the device, beside float64 on the CPU."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        expected = scores("float64", "cpu", labels, Path(folder, "exact"))
        for dtype in ("float64",) if TOY else ("float64", "float32", "bfloat16"):
            ours = scores(dtype, DEVICE, labels, Path(folder, dtype))
            found[dtype] = vars(Distance.between(ours, expected))
    return found


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.utils.deterministic.fill_uninitialized_memory = False
    # What only warns lets fused attention add in any order.
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


#: Attention, and what else is set.
SETTINGS = {
    "as it is": ("sdpa", _as_it_is),
    "deterministic": ("sdpa", _deterministic),
    "eager": ("eager", _as_it_is),
}


def twice(dtype: str, setting: str) -> dict[str, Any]:
    """Whether each pass gives the same bytes four times over, and its seconds."""
    attention, context = SETTINGS[setting]
    shape = REPEATED[dtype]
    model = shape.build(attention)
    numerics = Numerics(dtype, DEVICE, BATCH, 2**21, attention, 0)
    replica = Replica(model, track(model, MLP_PATTERNS), numerics)
    rows = table(shape.sequences())
    lane = LaneRows(lambda start: [rows], fitting_labels("sampled", 0))
    bases, bank = trivial_bases(replica, 1), random_bank(replica, 10, 32)
    passes: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "gradients": lambda: _gradients(replica, rows),
        "covariance": lambda: fold_covariance(replica, lane, 1).tensors,
        "lambda": lambda: fold_moments(replica, lane, bases).tensors,
        "scan": lambda: _scores(replica, bank, rows),
    }
    found: dict[str, Any] = {}
    with context():
        for name, run in passes.items():
            first: dict[str, torch.Tensor] = {}
            same, seconds = True, []
            for _ in range(4):
                try:
                    took, tensors = timed(run)
                except RuntimeError as error:
                    found[name] = {"refused": str(error)[:120]}
                    break
                seconds.append(took)
                first = first or tensors
                same = same and all(torch.equal(first[key], tensors[key]) for key in first)
            else:
                found[name] = {"same": same, "seconds": round(min(seconds), 4)}
    return found


def _gradients(replica: Replica, rows: pa.Table) -> dict[str, torch.Tensor]:
    """What the modules see of one batch."""
    seen: dict[str, torch.Tensor] = {}
    batch = next(iter(replica.batches(rows, {})))
    replica.run(batch, own_labels, lambda _b, name, rows: seen.update({name: rows.grads_BRO}), {})
    return seen


def _scores(replica: Replica, bank: QueryBank, rows: pa.Table) -> dict[str, torch.Tensor]:
    (scored,) = score_split(replica, [bank], rows)
    return {"scores": torch.from_numpy(scored.scores_NQ)}
