"""Whole jobs in float32 and bfloat16, with the operands that CUDA takes, beside float64 on the CPU.

So a change that breaks the default on GPUs, bfloat16, is seen without one. Labels that are sampled
differ where a draw falls between the two distributions; each is a draw from its own model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from device import DEVICE
from harness import table
from precision import Distance, gpu_operands, replica, scores, sequences, top
from torch import Tensor

from rayinfluence.dataflow.compute.folding import (
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.jobs.calibrate import trivial_bases

pytestmark = pytest.mark.runs

#: By dtype and labels: the largest distance in L2, the least correlation, the least overlap.
BOUNDS = {
    ("float64", "data"): (1e-9, 1 - 1e-12, 20),
    ("float32", "data"): (1e-5, 1 - 1e-9, 20),
    ("bfloat16", "data"): (0.05, 0.999, 18),
    ("float32", "sampled"): (1e-4, 1 - 1e-8, 20),
    ("bfloat16", "sampled"): (0.2, 0.98, 17),
}
#: The 20 highest of the first two queries, in order: of float64, with the data's labels.
# fmt: off
GOLDEN = [
    [
        173, 60, 183, 131, 68, 122, 187, 95, 15, 160,
        121, 40, 75, 102, 147, 57, 21, 81, 22, 191,
    ],
    [
        46, 175, 172, 87, 53, 78, 162, 137, 33, 4,
        128, 66, 97, 124, 134, 138, 48, 9, 114, 121,
    ],
]
# fmt: on


@pytest.fixture(autouse=True)
def _gpu_operands() -> Iterator[None]:
    with gpu_operands():
        yield


@pytest.fixture(scope="module", params=["data", "sampled"])
def exact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Tensor]:
    """Scores in float64 on the CPU, and what labels they are from."""
    folder = tmp_path_factory.mktemp("exact")
    return request.param, scores("float64", "cpu", request.param, folder)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_scores_are_those_of_float64(dtype: str, exact: tuple[str, Tensor], tmp_path: Path) -> None:
    labels, expected = exact
    found = scores(dtype, DEVICE.type, labels, tmp_path)
    distance = Distance.between(found, expected)
    l2, correlation, overlap = BOUNDS.get((dtype, labels), BOUNDS[dtype, "data"])
    assert distance.l2 < l2, distance
    assert distance.correlation > correlation, distance
    assert distance.top >= overlap, distance
    if labels == "data":
        for golden, column in zip(GOLDEN, found.T, strict=False):
            if dtype == "bfloat16":
                assert len(set(golden) & set(top(column))) >= overlap
            else:
                assert top(column) == golden


def folded(dtype: str, batch_tokens: int) -> dict[str, float]:
    """Traces of covariances and sums of squares over short sequences."""
    made = replica(dtype, DEVICE.type, batch_tokens, layers=1)
    rows = table([tokens[:6] for tokens in sequences()] * 2)
    lane = LaneRows(lambda start: [rows], fitting_labels("data", 0))
    covariance = fold_covariance(made, lane, 1)
    moments = fold_moments(made, lane, trivial_bases(made, 1))
    assert covariance.n_sequences == moments.n_sequences == 400
    traces = {name: float(t.trace()) for name, t in covariance.tensors.items() if t.ndim == 2}
    return {**traces, **{name: float(t.sum()) for name, t in moments.tensors.items()}}


def test_hundreds_of_batches_in_bfloat16_do_not_drift() -> None:
    """Sums over them are those of float64, within 1 %: in bfloat16 they would stall.

    Of equal terms after the 256th, as it has eight bits.

    A trace or a sum of squares is a mean over so many numbers that rounding cancels in it.
    """
    found, expected = folded("bfloat16", batch_tokens=1), folded("float64", batch_tokens=2048)
    assert found.keys() == expected.keys()
    ratios = {name: found[name] / expected[name] for name in expected}
    assert 0.99 < min(ratios.values()) <= max(ratios.values()) < 1.01, ratios
