"""Curvature where training maximised a mean over tokens: that of the mean, and no other."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from rayinfluence.dataflow.run import Run
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.targets import Mean, Objective, RootWeights, Targets
from rayinfluence.storage.results import ITSELF_ID, Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

N_TARGETS, N_CLASSES, LENGTH = 3, 3, 6


@dataclass(frozen=True)
class Known:
    """Targets that are given."""

    found: Targets

    def targets(self, batch: Batch) -> Targets:
        """These."""
        return self.found


def test_squares_of_gradients_at_drawn_labels_are_the_curvature_of_the_mean() -> None:
    """Over all labels that may be drawn, against the Gauss-Newton matrix of the mean, written out.

    Its block of target n is w (diag(p_n) - p_n p_n^T) in the logits, and there is none between
    targets.
    """
    numbers = torch.arange(N_TARGETS)
    targets = Targets(numbers, numbers, torch.zeros_like(numbers), np.array([N_TARGETS]))
    batch = make_batch([np.arange(N_TARGETS + 1)], [0], torch.device("cpu"))
    made = RootWeights(Mean(Known(targets))).targets(batch)
    generator = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(N_TARGETS, N_CLASSES, generator=generator, dtype=torch.float64)
    p_NV = logits_NV.softmax(1)
    size = N_TARGETS * N_CLASSES
    found = torch.zeros(size, size, dtype=torch.float64)
    for labels in itertools.product(range(N_CLASSES), repeat=N_TARGETS):
        leaf_NV = logits_NV.clone().requires_grad_()
        drawn_N = torch.tensor(labels)
        log_p_N = leaf_NV.log_softmax(1)[numbers, drawn_N]
        (gradient_NV,) = torch.autograd.grad(made.by_sequence(log_p_N).sum(), leaf_NV)
        probability = p_NV[numbers, drawn_N].prod()
        found += probability * torch.outer(gradient_NV.flatten(), gradient_NV.flatten())
    blocks = [(torch.diag(p_V) - torch.outer(p_V, p_V)) / N_TARGETS for p_V in p_NV]
    torch.testing.assert_close(found, torch.block_diag(*blocks), rtol=1e-12, atol=1e-14)


def test_roots_of_a_plain_sum_are_that_sum() -> None:
    batch = make_batch([np.arange(4)], [0], torch.device("cpu"))
    numbers = torch.arange(3)
    plain: Objective = Known(Targets(numbers, numbers, torch.zeros_like(numbers), np.array([3])))
    assert RootWeights(plain).targets(batch) is plain.targets(batch)


def ran(folder: Path, reduction: str, labels: str) -> dict[str, Results]:
    """A run on sequences of one length."""
    config = tiny_run(
        folder,
        scan={"methods": ["ekfac", "kfac", "diagonal", ITSELF_ID], "scores": "dense"},
        objective={"reduction": reduction},
        fit={"labels": labels},
        dtype="float64",
    )
    words = np.random.default_rng(0).integers(0, 40, (60, LENGTH))
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n")
    with Run(config) as run:
        return run.all()


@pytest.mark.parametrize("labels", ["sampled", "data"])
def test_of_sequences_of_one_length_a_mean_has_the_influence_that_a_sum_has(
    tmp_path: Path, labels: str
) -> None:
    """Both are maximal at the same weights, with one sequence more, too.

    What is predicted of a query is the same then; of a sequence itself it is the mean, not the sum.
    """
    by_sum, by_mean = (
        ran(tmp_path / reduction, reduction, labels) for reduction in ("sum", "mean")
    )
    for method, results in by_sum.items():
        factor = 1 / (LENGTH - 1) if method == ITSELF_ID else 1
        for query_id in results.queries:
            one, other = (
                found[method].scores(query_id)["score"].to_numpy() for found in (by_sum, by_mean)
            )
            scale = np.abs(one).max()
            assert len(one) == 60
            np.testing.assert_allclose(other, one * factor, rtol=1e-5, atol=1e-7 * scale)
