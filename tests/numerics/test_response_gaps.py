"""The chain from leaving a sequence out to its influence, where every response is known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from harness import table
from test_proximal_response import DAMPING, N, predictions, ridge, tokens
from torch import Tensor, nn

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.evaluation.pbrf.gap import GAPS, STEPS, GapReport, gap_report
from rayinfluence.evaluation.pbrf.moving import all_weights
from rayinfluence.evaluation.pbrf.response import Responses, Search

ROWS = (0, 3, 6, 9)


def design(rows: np.ndarray) -> tuple[Tensor, Tensor]:
    numbers = torch.from_numpy(rows).double()
    return torch.cat([numbers[:, :-1], torch.ones(N, 1).double()], dim=1), numbers[:, -1]


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([model[0].weight[0], model[0].bias])


def with_weights(model: nn.Module, w: Tensor) -> nn.Module:
    other = copy.deepcopy(model)
    other[0].weight.data, other[0].bias.data = w[None, :-1].clone(), w[-1:].clone()
    return other


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, Replica, GapReport]:
    rows, replica = ridge()
    X, y = design(rows)

    def retrain(sequence_id: int, warm: bool) -> nn.Module:
        """To the end from scratch, and half of the way from where the weights are."""
        others = torch.arange(N) != sequence_id
        end = torch.linalg.lstsq(X[others], y[others]).solution
        return with_weights(replica.model, 0.5 * (weights_of(replica.model) + end) if warm else end)

    responses = Responses(
        replica,
        table(tokens(rows)),
        predictions(rows[:5], replica),
        lambda twin: all_weights(twin.model, DAMPING),
        Search(tolerance=5e-6),
    )
    sequences = table(tokens(rows))
    predicted = np.arange(20.0).reshape(4, 5)
    found = gap_report(
        responses,
        replica,
        [sequences.slice(place, 1) for place in ROWS],
        -1 / N,
        retrain,
        predicted,
    )
    return rows, replica, found


def test_each_response_is_its_closed_form(made: tuple[np.ndarray, Replica, GapReport]) -> None:
    rows, replica, found = made
    X, y = design(rows)
    w = weights_of(replica.model)
    eye = torch.eye(len(w)).double()
    for place, row in enumerate(ROWS):
        x, residuals = X[row], X @ w - y
        others = torch.arange(N) != row
        end = torch.linalg.lstsq(X[others], y[others]).solution
        without = X[others].T @ X[others] / N
        slope = X[others].T @ residuals[others] / N
        gauss_newton = X.T @ X / N + DAMPING * eye
        expected = [
            end - w,
            0.5 * (end - w),
            -torch.linalg.solve(without + DAMPING * eye, slope),
            torch.linalg.solve(without + DAMPING * eye, x * residuals[row] / N),
            torch.linalg.solve(gauss_newton, x * residuals[row] / N),
        ]
        # What is left of the second order in the last one.
        for step, moved, error in zip(found.steps, expected, (1e-4,) * 4 + (2e-3,), strict=False):
            torch.testing.assert_close(
                torch.from_numpy(step[place]), X[:5] @ moved, rtol=error, atol=1e-9
            )


def test_gaps_add_up_and_are_measured(made: tuple[np.ndarray, Replica, GapReport]) -> None:
    *_, found = made
    assert len(found.steps) == len(STEPS)
    total = sum(found.differences)
    np.testing.assert_allclose(total, found.steps[0] - found.steps[-1], rtol=1e-12, atol=1e-15)
    assert [gap.name for gap in found.gaps] == list(GAPS)
    assert (found.left_Z <= 5e-6).all()
    first, *_, last = found.gaps
    # Half of the way is half of it, for every pair.
    assert first.share == pytest.approx(0.5)
    assert first.correlation == pytest.approx(1.0)
    assert last.size == pytest.approx(np.sqrt(((found.steps[4] - found.steps[5]) ** 2).mean()))
    correlations = found.with_first()
    assert correlations[:2] == pytest.approx([1.0, 1.0])
    columns = zip(found.steps[0].T, found.steps[2].T, strict=True)
    expected = np.mean([np.corrcoef(one, other)[0, 1] for one, other in columns])
    assert correlations[2] == pytest.approx(expected)
