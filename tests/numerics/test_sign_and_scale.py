"""Positive means more likely, and a score over N is nats: checked by really moving the weights."""

from __future__ import annotations

import copy
from pathlib import Path

import naive
import pytest
import torch
from compare import assert_same
from harness import Fitted, all_scores, encoded, explain_pairs, make_bank
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.eigen import eigenbasis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.curvature.sums import GramSums, homogeneous, rotated_gradients
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.influence.bank import DenseQueries
from rayinfluence.influence.contraction import Contraction
from rayinfluence.model.capture import backward
from rayinfluence.model.load import freeze
from rayinfluence.model.routed import TransposedRoutedLinear
from rayinfluence.model.rows import Rows


def stepped(model: nn.Module, step: dict[str, Tensor], size: float) -> nn.Module:
    """A copy whose weights moved by size * step [O, J]."""
    moved = copy.deepcopy(model)
    for name, matrix_OJ in step.items():
        module = moved.get_submodule(name)
        d_in = matrix_OJ.shape[1] - int(naive.bias(module) is not None)
        weight = matrix_OJ[:, :d_in]
        transposed = isinstance(module, Conv1D | TransposedRoutedLinear | nn.Embedding)
        weight = (weight.T if transposed else weight).reshape(module.weight.shape)
        module.weight.data += size * weight
        if naive.bias(module) is not None:
            module.bias.data += size * matrix_OJ[:, d_in]
    return moved


@pytest.mark.parametrize("method", ["ekfac", "kfac", "gradient_product"])
def test_a_sequence_makes_itself_more_likely(fitted: Fitted, method: str, tmp_path: Path) -> None:
    """In total, and in every module by itself."""
    queries = [encoded(tokens) for tokens in fitted.sequences]
    bank = make_bank(fitted.replica, fitted.factors, queries, tmp_path, method)
    scores = all_scores(fitted.replica, bank, fitted.sequences)
    assert bool((scores.diagonal() > 0).all())
    pairs = [(index, index) for index in range(len(queries))]
    explained = explain_pairs(fitted.replica, bank, fitted.sequences, pairs)
    for (query, _), one in explained.items():
        own = query_gradient(fitted.replica, queries[query]).tokens
        for name, score in one.layer_scores.items():
            # Two tokens give queries and keys no gradient but what rounding leaves of it: the first
            # can only attend to itself.
            inputs, grads = own[name]
            expected = bool((grads.T @ inputs).norm() > 1e-12)
            assert score > 0 if expected else abs(score) < 1e-9, f"{name}: {score}"


@pytest.mark.parametrize("method", ["ekfac", "kfac", "gradient_product"])
def test_an_ascent_step_on_a_sequence_changes_a_query_by_its_score(
    fitted: Fitted, method: str, tmp_path: Path
) -> None:
    """theta + (1/N) (G + lambda I)^-1 grad log p(z) changes f_q by I / N, up to O(1/N^2)."""
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, tmp_path, method)
    scores = all_scores(fitted.replica, bank, fitted.sequences)
    model = fitted.replica.model
    solved = make_bank(
        fitted.replica, fitted.factors, [encoded(t) for t in fitted.sequences], tmp_path, method
    )
    for index in range(len(fitted.sequences)):
        step = {name: module.matrix_QOJ[index] for name, module in solved.modules.items()}
        for place, query in enumerate(fitted.queries):
            score = float(scores[index, place])

            def value(moved: nn.Module, query=query) -> float:
                tokens, first = list(query.answers[0].tokens), query.answers[0].first_target
                return float(naive.log_probability(moved, tokens, first=first))

            before, largest = value(model), 1e-5 / float(scores[:, place].abs().max())
            errors = [
                (value(stepped(model, step, size)) - before) / (size * score) - 1
                for size in (largest, largest / 4)
            ]
            assert abs(errors[1]) < 1e-2, f"sequence {index}, query {place}: {errors}"
            # Linear in the size of the step, unless only rounding is left.
            assert abs(errors[1] - errors[0] / 4) < 0.05 * abs(errors[0]) + 1e-6, errors


# --- least squares in closed form ---


class Regression(nn.Module):
    """y = W x + b with one output; a sequence is one token."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.linear = nn.Linear(len(weight), 1, bias=bias is not None).double()
        self.linear.weight.data = weight[None]
        if bias is not None:
            self.linear.bias.data = bias[None]
        freeze(self)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs)[:, 0, 0]


@pytest.mark.parametrize("bias", [False, True])
def test_influence_is_leave_one_out_in_linear_regression(bias: bool) -> None:
    """log p(y | x) = -(w x - y)^2 / 2: I / N = (1 - h_j) times the true change, for every j.

    Labels y = prediction +- 1 have the noise's mean and variance, so g = 1 throughout and Lambda in
    the eigenbasis of A is exact.
    """
    generator = torch.Generator().manual_seed(0)
    n_rows, width = 30, 4
    x = torch.randn(n_rows, width, generator=generator, dtype=torch.float64)
    y = 2 * x[:, 0] - x[:, 2] + 0.3 + torch.randn(n_rows, generator=generator, dtype=torch.float64)
    ones = torch.ones(n_rows, 1, dtype=torch.float64)
    design = torch.cat([x, ones], dim=1) if bias else x
    theta = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    model = Regression(theta[:width], theta[width] if bias else None)
    modules = {"linear": model.linear}

    captured: list[tuple[Tensor, Tensor]] = []

    def run(objective, n_points: int = n_rows) -> tuple[Tensor, Tensor]:
        captured.clear()

        def keep(_name: str, rows: Rows) -> None:
            captured.append((rows.inputs_BRI, rows.grads_BRO))

        backward(modules, (n_points, 1), objective, keep)
        return captured[0]

    inputs, units = run(lambda: model(x[:, None]).sum())
    sums = GramSums.zeros(width, 1, bias, torch.float64, torch.device("cpu"))
    sums.add(inputs[:, 0])
    of_inputs = sums.to_tensors()
    A = of_inputs["0"]
    if bias:
        A = homogeneous(A, of_inputs["sum"], of_inputs["rows"])
    values_A, basis_A = eigenbasis(A / n_rows, "A")
    values_S, basis_S = eigenbasis(units[:, 0].T @ units[:, 0] / n_rows, "S")
    Q_A, Q_S = Basis((basis_A,)), Basis((basis_S,))
    rotated = torch.cat(list(rotated_gradients(inputs, units, Q_A, Q_S)))
    Lambda = rotated.square().mean(dim=0)
    assert_same(Lambda, values_A[None], "Lambda and the eigenvalues of A")
    operator = EKFAC(ModuleFactors(Q_A, Q_S, values_A, values_S, Lambda), "linear", damping=1e-13)

    points = torch.randn(5, 1, width, generator=generator, dtype=torch.float64)
    of_points = [run(lambda p=point[None]: model(p).sum(), 1)[0][0] for point in points]
    augmented = [torch.cat([p, ones[:1]], dim=1) if bias else p for p in of_points]
    solved = torch.stack([operator.inverse() @ p for p in augmented])
    queries = DenseQueries(solved, width)
    inputs, grads = run(lambda: -(model(x[:, None]) - y).square().sum() / 2)
    (scores,) = Contraction().scores([(inputs, grads)], [queries])
    influence = scores / n_rows

    leverage = (design @ torch.linalg.inv(design.T @ design) * design).sum(dim=1)
    assert float(leverage.min()) < 0.1 < 0.2 < float(leverage.max())
    for j in range(n_rows):
        kept = torch.arange(n_rows) != j
        without = torch.linalg.lstsq(design[kept], y[kept, None]).solution[:, 0]
        change = torch.stack([(p[0] @ (theta - without)) for p in augmented])
        assert_same(influence[j] / (1 - leverage[j]), change, f"row {j}", 1e-9)


def test_log_probability_of_a_query_is_that_of_its_completion(fitted: Fitted) -> None:
    for query in fitted.queries:
        whole = naive.log_probability(fitted.replica.model, list(query.answers[0].tokens))
        prompt = list(query.answers[0].tokens[: query.answers[0].first_target])
        given = naive.log_probability(fitted.replica.model, prompt) if len(prompt) > 1 else 0.0
        found = query_gradient(fitted.replica, query).log_probability
        assert found == pytest.approx(float(whole - given), rel=1e-12)
