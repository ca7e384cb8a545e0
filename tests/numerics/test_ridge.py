"""Ridge regression, where influence has a closed form, by the explicit solver: nothing is fitted.

N rows, F features and a one, y targets: w = argmin sum_i (y_i - w x_i)^2 / 2 + N lambda |w|^2 / 2.
Without row j the prediction at x_q changes by -x_q A^-1 x_j r_j / (N (1 - h_j)), with A = X^T X / N
+ lambda I, r_j the residual and h_j = x_j A^-1 x_j / N the leverage.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rayinfluence.curvature.iterative.solvers import IterativeSolver, solve
from rayinfluence.curvature.iterative.system import System
from rayinfluence.curvature.iterative.vectors import Vectors
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.model.batches import Batch
from rayinfluence.model.curvature_products import curvature_products
from rayinfluence.model.modules import track
from rayinfluence.model.row_task import RowTask
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import REGRESSION

N, F, DAMPING = 12, 3, 0.05


def rows() -> np.ndarray:
    """Features and targets [N, F + 1], as shards have them."""
    return np.random.default_rng(0).normal(size=(N, F + 1)).astype(np.float32)


def fitted(X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """w [F + 1] of some rows, with the penalty of all."""
    return torch.linalg.solve(X.T @ X + N * DAMPING * torch.eye(F + 1).double(), X.T @ y)


@pytest.mark.parametrize("name", ["explicit", "cg", "pcg", "arnoldi"])
@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_leaving_a_row_out_is_its_influence_over_one_less_its_leverage(
    curvature: str, name: str
) -> None:
    table = rows()
    X = torch.cat([torch.from_numpy(table[:, :-1]).double(), torch.ones(N, 1).double()], dim=1)
    y = torch.from_numpy(table[:, -1]).double()
    w = fitted(X, y)
    model = nn.Sequential(nn.Linear(F, 1)).double().requires_grad_(False)
    model[0].weight.data, model[0].bias.data = w[None, :-1].clone(), w[-1:].clone()
    RowTask(REGRESSION, F, NamedFunction("model_function", "nowhere:build", "")).given_to(model)
    numerics = Numerics("float64", "cpu", 64, 2**17, "eager", 0, objective=REGRESSION)
    replica = Replica(model, track(model, ["*"]), numerics)
    lengths, ids = np.full(N, F + 1), np.arange(N)
    batch = Batch(torch.from_numpy(table.view(np.int32).astype(np.int64)), lengths, ids)
    targets = replica.trained_on.targets(batch)

    def products(directions: list[Vectors], part: int | None) -> list[Vectors]:
        told = replica.model, replica.modules, batch, targets, directions, curvature
        return [{"0": one["0"] / N} for one in curvature_products(*told)]

    system = System({"0": DAMPING}, dict, dict)
    solver = IterativeSolver(name, steps=50, tolerance=1e-12)
    residuals = y - X @ w
    for query in (0, 5):
        (state,) = solve(solver, system, [{"0": X[query][None]}], products)
        solved = state.vector("solution")["0"][0]
        for row in range(N):
            score = float(solved @ X[row] * residuals[row])  # <A^-1 grad f, grad log p>
            leverage = float(
                X[row] @ torch.linalg.solve(X.T @ X / N + DAMPING * torch.eye(F + 1), X[row]) / N
            )
            others = torch.arange(N) != row
            change = float(X[query] @ (fitted(X[others], y[others]) - w))
            assert -change / (score / N) == pytest.approx(1 / (1 - leverage), rel=1e-8)
