"""Proximal Bregman responses beside closed forms and dense solves, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from cases import GPT2, MLP, Case, token_sequences
from harness import encoded, fit_factors, make_replica, operator_of, table
from torch import Tensor, nn

from rayinfluence.corpus.features import Features, bits
from rayinfluence.corpus.queries import EncodedQuery, encode_queries
from rayinfluence.corpus.query_forms import queries_of
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.curvature.iterative.solvers import IterativeSolver, solve
from rayinfluence.curvature.iterative.system import System
from rayinfluence.curvature.iterative.vectors import Vectors, inner
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.errors import NumericsError
from rayinfluence.evaluation.pbrf import objective
from rayinfluence.evaluation.pbrf.divergence import divergences
from rayinfluence.evaluation.pbrf.minimise import minimised
from rayinfluence.evaluation.pbrf.moving import all_weights, tracked_weights
from rayinfluence.evaluation.pbrf.response import Choose, Responses, Search, twin_of
from rayinfluence.model.batches import make_batch
from rayinfluence.model.curvature_products import curvature_products
from rayinfluence.model.modules import track
from rayinfluence.model.row_task import RowTask
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import REGRESSION

N, F, DAMPING = 14, 3, 0.05
#: Steps are found by values, whose rounding hides gradients of less.
EXACT = Search(tolerance=1e-8, most_evaluations=3000)


@pytest.mark.parametrize("kind", ["tokens", "numbers"])
def test_a_divergence_is_bregman_s(kind: str) -> None:
    torch.manual_seed(0)
    width, number = (7, False) if kind == "tokens" else (1, True)
    here, start = torch.randn(5, width).double(), torch.randn(5, width).double()
    labels = torch.randn(5).double() if number else torch.arange(5)

    def losses(logits_NV: Tensor) -> Tensor:
        if number:
            return 0.5 * (logits_NV[:, 0] - labels) ** 2
        return -logits_NV.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]

    at = start.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(losses(at).sum(), at)
    expected = losses(here) - losses(start) - (slope * (here - start)).sum(dim=1)
    torch.testing.assert_close(divergences(here, start, labels), expected, rtol=1e-12, atol=1e-14)


def ridge() -> tuple[np.ndarray, Replica]:
    """Rows of features with targets, and a linear regression that has not converged on them."""
    rows = np.random.default_rng(0).normal(size=(N, F + 1)).astype(np.float32)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(F, 1)).double().requires_grad_(False)
    RowTask(REGRESSION, F, NamedFunction("model_function", "nowhere:build", "")).given_to(model)
    numerics = Numerics("float64", "cpu", 24, 2**17, "eager", 0, objective=REGRESSION)
    return rows, Replica(model, track(model, ["*"]), numerics)


def predictions(rows: np.ndarray, replica: Replica) -> list[EncodedQuery]:
    lines = [
        {
            "query_id": str(place),
            "features": [float(number) for number in row[:-1]],
            "target": float(row[-1]),
            "measurement": "prediction",
        }
        for place, row in enumerate(rows)
    ]
    queries = [query for line in lines for query in queries_of(line, "here")]
    features = Features(("a", "b", "c"), "y", F)
    return encode_queries(
        queries, features, replica.context, replica.vocabulary, None, REGRESSION, ()
    )


def tokens(rows: np.ndarray) -> list[np.ndarray]:
    return [np.array([bits(float(number)) for number in row]) for row in rows]


@pytest.mark.parametrize("epsilon", [-1 / N, 1 / N])
@pytest.mark.parametrize("which", ["all weights", "tracked modules"])
def test_the_response_of_a_linear_regression_is_its_closed_form(
    which: str, epsilon: float, tmp_path: Path
) -> None:
    rows, replica = ridge()
    if which == "all weights":
        damping = DAMPING
        choose: Choose = lambda twin: all_weights(twin.model, DAMPING)  # noqa: E731
    else:
        solvers = operator_of(fit_factors(replica, tokens(rows), tmp_path))
        damping = solvers["0"].damping
        choose = lambda twin: tracked_weights(twin.modules, solvers)  # noqa: E731
    X = torch.cat([torch.from_numpy(rows[:, :-1]).double(), torch.ones(N, 1).double()], dim=1)
    y = torch.from_numpy(rows[:, -1]).double()
    layer = replica.model[0]
    w = torch.cat([layer.weight[0], layer.bias])
    queries = predictions(rows[:5], replica)
    responses = Responses(replica, table(tokens(rows)), queries, choose, EXACT)
    torch.testing.assert_close(torch.from_numpy(responses.start_Q), (X @ w)[:5])
    for place in (0, 6):
        found = responses.of(table(tokens(rows)[place : place + 1]), epsilon)
        x, residual = X[place], X[place] @ w - y[place]
        damped = X.T @ X / N + epsilon * torch.outer(x, x) + damping * torch.eye(F + 1)
        moved = torch.linalg.solve(damped, -epsilon * residual * x)
        assert found.converged
        torch.testing.assert_close(
            torch.from_numpy(found.changes_Q), X[:5] @ moved, rtol=1e-7, atol=1e-10
        )
    # The model is where it was.
    torch.testing.assert_close(torch.cat([layer.weight[0], layer.bias]), w, rtol=0, atol=0)


#: Of so few modules that the whole curvature is a small matrix.
SMALL = Case("gpt2", GPT2.model, ("*h.0.mlp*",)), Case("mlp", MLP.model, ("inner", "plain"))


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_small_responses_are_influences_with_the_whole_curvature(
    case: Case, tmp_path: Path
) -> None:
    """The error is of the order of epsilon: a tenth of epsilon has a tenth of it."""
    sequences = token_sequences(2, (9, 5, 7, 3, 8, 6, 9, 4))
    replica = make_replica(case)
    fitted = operator_of(fit_factors(replica, sequences, tmp_path))
    solvers = {n: EKFAC(one.factors, n, damping_scale=3.0) for n, one in fitted.items()}
    queries = [encoded(sequence, 2) for sequence in token_sequences(5, (6, 8, 5))]
    responses = Responses(
        replica,
        table(sequences),
        queries,
        lambda twin: tracked_weights(twin.modules, solvers),
        Search(tolerance=1e-6),
    )
    expected = influences(replica, solvers, sequences, queries)
    errors = []
    for epsilon in (1e-4, 1e-5):
        found_Q = responses.of(table(sequences[:1]), epsilon).changes_Q / epsilon
        errors.append(np.linalg.norm(found_Q - expected[0]) / np.linalg.norm(expected[0]))
    assert errors[1] < 1e-4
    assert 5 < errors[0] / errors[1] < 20


def influences(
    replica: Replica,
    solvers: dict[str, EKFAC],
    sequences: Sequence[np.ndarray],
    queries: Sequence[EncodedQuery],
) -> np.ndarray:
    """grad f^T (G + lambda I)^-1 grad log p [N, Q], with G of all modules together."""
    twin, names = naive.trainable(replica.model), list(replica.modules)

    def products(directions: Sequence[Vectors], part: int | None) -> list[Vectors]:
        batch = make_batch(sequences, range(len(sequences)), replica.device)
        targets = replica.trained_on.targets(batch)
        found = curvature_products(replica.model, replica.modules, batch, targets, directions)
        return [{name: one / len(sequences) for name, one in of.items()} for of in found]

    system = System({name: one.damping for name, one in solvers.items()}, dict, dict)
    gradients = [
        naive.gradients(
            twin,
            names,
            naive.log_probability(
                twin, list(query.answers[0].tokens), first=query.answers[0].first_target
            ),
        )
        for query in queries
    ]
    solved = [
        state.vector("solution")
        for state in solve(IterativeSolver("explicit", 0), system, gradients, products)
    ]
    theirs = [
        naive.gradients(twin, names, naive.log_probability(twin, list(sequence)))
        for sequence in sequences
    ]
    return np.array([[inner(of_query, one) for of_query in solved] for one in theirs])


def test_what_the_model_says_at_the_start_need_not_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = token_sequences(2, (9, 5, 7, 3))
    replica = make_replica(SMALL[1])
    fitted = operator_of(fit_factors(replica, sequences, tmp_path))
    solvers = {n: EKFAC(one.factors, n, damping_scale=100.0) for n, one in fitted.items()}

    def response() -> np.ndarray:
        responses = Responses(
            replica,
            table(sequences),
            [encoded(sequences[0], 2)],
            lambda twin: tracked_weights(twin.modules, solvers),
            Search(tolerance=0.1),
        )
        return responses.of(table(sequences[1:2]), -0.25).changes_Q

    kept = response()
    monkeypatch.setattr(objective, "_KEPT_BYTES", -1)
    assert kept.any()
    np.testing.assert_array_equal(response(), kept)


def test_a_minimum_is_found_whatever_the_scale_and_what_is_not_finite_is_refused() -> None:
    scales = torch.logspace(-1, 1, 6, dtype=torch.float64)

    def bowl(at: Tensor, unit: float) -> tuple[float, Tensor]:
        off = at - unit
        return float(0.5 * (scales * off**2).sum()), scales * off

    for unit in (1e-12, 1.0, 1e8):
        found = minimised(lambda at, u=unit: bowl(at, u), torch.zeros(6).double(), 1e-9, 200)
        torch.testing.assert_close(
            found.coordinates_D / unit, torch.ones(6).double(), rtol=1e-7, atol=0
        )
        assert found.gradient <= 1e-9
        assert found.value == pytest.approx(-0.5 * unit**2 * float(scales.sum()))
    few = minimised(lambda at: bowl(at, 1.0), torch.zeros(6).double(), 1e-30, 5)
    assert 5 <= few.evaluations < 60
    assert few.gradient > 1e-30
    with pytest.raises(NumericsError, match="not finite where it starts"):
        minimised(lambda at: (float("nan"), at), torch.zeros(2).double(), 1e-3, 10)


def test_a_twin_is_wide_and_a_copy() -> None:
    _, replica = ridge()
    replica.model.float()
    twin = twin_of(replica)
    assert next(twin.model.parameters()).dtype == torch.float64
    assert next(replica.model.parameters()).dtype == torch.float32
    assert list(twin.modules) == list(replica.modules)
