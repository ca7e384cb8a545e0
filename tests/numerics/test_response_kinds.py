"""The objective of responses for other kinds of models: its slope at the start, and elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import naive
import pytest
import torch
from harness import fit_factors, operator_of, table
from other_references import SUBJECTS, Subject, gradients
from test_other_kinds import CLASSES, MASKS, TEXTS, TOKENS, made

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.evaluation.pbrf.moving import require_gradients, tracked_weights
from rayinfluence.evaluation.pbrf.objective import Basis, Objective, batches_of
from rayinfluence.evaluation.pbrf.response import twin_of

pytestmark = pytest.mark.runs


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_the_slope_is_the_sequence_s_gradient_and_that_of_the_values(
    subject: Subject, reduction: str, tmp_path: Path
) -> None:
    built = made(subject)
    numerics = replace(built.numerics, reduction=reduction)
    replica = Replica(built.model, built.modules, numerics)
    told = {"masks": MASKS, "classes": CLASSES}
    solvers = operator_of(fit_factors(replica, TOKENS, tmp_path, **told))
    rows = table(TOKENS, **told)
    twin = twin_of(replica)
    moving = tracked_weights(twin.modules, solvers)
    epsilon, place = -0.2, 2
    objective = Objective(
        twin,
        Basis(twin_of(replica), rows),
        moving,
        list(batches_of(twin, rows.slice(place, 1))),
        epsilon,
    )
    size = sum(one.shape.numel() for one in moving)
    require_gradients(moving, True)
    value, slope_D = objective.at(torch.zeros(size, dtype=torch.float64))
    if reduction == "sum":
        # At the start divergences are flat.
        trainable, text = naive.trainable(replica.model), TEXTS[place]
        labels = subject.reference.labels(text)
        theirs = gradients(subject.reference, trainable, list(replica.modules), text, labels)
        expected = [
            one.pulled(-epsilon * theirs[name]).flatten()
            for name, one in zip(replica.modules, moving, strict=True)
        ]
        torch.testing.assert_close(slope_D, torch.cat(expected), rtol=1e-8, atol=1e-10)
    torch.manual_seed(0)
    there_D, along_D = 0.1 * torch.randn(2, size, dtype=torch.float64)
    _, slope_D = objective.at(there_D)
    step = 1e-7  # as some directions are hardly held
    ahead, behind = (objective.at(there_D + sign * step * along_D)[0] for sign in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float(slope_D @ along_D), rel=1e-5)
    assert abs(ahead - value) > 1e-3
