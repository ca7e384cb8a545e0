"""Modules of one's own on rows of features: all numbers beside autograd, loops and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist

import naive
import numpy as np
import pytest
import torch
from compare import assert_same
from harness import all_scores, bases_of, fit_factors, make_bank, operator_of, table
from other_references import SEED, Text, covariances, dense_scores
from torch import Tensor, nn

from rayinfluence.corpus.features import Features, bits
from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery, encode_queries
from rayinfluence.corpus.query_forms import queries_of
from rayinfluence.dataflow.compute.replica import Numerics, Replica, own_labels
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.model.modules import track
from rayinfluence.model.row_targets import TargetOfRow
from rayinfluence.model.row_task import RowTask
from rayinfluence.model.targets import Objective
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import CLASSES_OF_ROWS, REGRESSION
from rayinfluence.testing.targets import ObjectiveConformance

N_FEATURES, N_ROWS = 4, 9
BUILDER = NamedFunction("model_function", "nowhere:build", "")
FEATURES = Features(("a", "b", "c", "d"), "y", N_FEATURES)


class Residual(nn.Module):
    """Of layers that are called once, twice and without a bias."""

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.first = nn.Linear(N_FEATURES, 6)
        self.shared = nn.Linear(6, 6)
        self.last = nn.Linear(6, n_out, bias=False)

    def forward(self, features_BF: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(features_BF))
        hidden = hidden + torch.tanh(self.shared(hidden))
        return self.last(hidden + torch.relu(self.shared(hidden)))


class Flat(Residual):
    """Predictions [B]."""

    def forward(self, features_BF: Tensor) -> Tensor:
        return super().forward(features_BF)[:, 0]


@dataclass(frozen=True)
class Subject:
    name: str
    kind: str
    build: Callable[[], nn.Module]

    @property
    def n_classes(self) -> int:
        return 3 if self.kind == CLASSES_OF_ROWS else 0

    def rows(self, seed: int, n_rows: int = N_ROWS) -> list[Text]:
        """Features of both signs, and targets."""
        generator = np.random.default_rng(seed)
        numbers = generator.normal(size=(n_rows, N_FEATURES + 1)).astype(np.float32)
        if self.n_classes:
            numbers[:, -1] = generator.integers(0, self.n_classes, n_rows)
        tokens = numbers.view(np.int32).astype(np.int64)
        return [Text(row, place) for place, row in enumerate(tokens)]

    def replica(self, batch_tokens: int = 20, seed: int = 0) -> Replica:
        torch.manual_seed(seed)
        model = self.build().double().eval()
        for weight in model.parameters():
            weight.requires_grad_(False)
        RowTask(self.kind, N_FEATURES, BUILDER).given_to(model)
        numerics = Numerics(
            "float64", "cpu", batch_tokens, 2**17, "eager", SEED, objective=self.kind
        )
        return Replica(model, track(model, ["*"]), numerics)

    def log_p(self, model: nn.Module, row: Text, target: float) -> Tensor:
        """As a book has it, of one row alone."""
        output = model(torch.tensor([numbers(row)[:-1]], dtype=torch.float64))[0]
        if self.n_classes:
            return output.log_softmax(dim=-1)[int(target)]
        return torch.distributions.Normal(output.squeeze(), 1.0).log_prob(
            torch.tensor(target, dtype=torch.float64)
        )

    def sampled(self, model: nn.Module, row: Text) -> float:
        """A target from what the model says, by the row's own stream."""
        draw = np.random.Generator(np.random.Philox(key=[SEED, row.sequence_id])).random()
        output = model(torch.tensor([numbers(row)[:-1]], dtype=torch.float64))[0].detach()
        if not self.n_classes:
            return float(output.squeeze()) + NormalDist().inv_cdf(draw)
        cumulative = output.softmax(dim=-1).cumsum(dim=-1).tolist()
        return float(next(label for label, end in enumerate(cumulative) if draw < end))


SUBJECTS = (
    Subject("column", REGRESSION, lambda: Residual(1)),
    Subject("flat", REGRESSION, lambda: Flat(1)),
    Subject("classes", CLASSES_OF_ROWS, lambda: Residual(3)),
)


def numbers(row: Text) -> list[float]:
    return row.tokens.astype(np.int32).view(np.float32).tolist()


def tokens_of(rows: Sequence[Text]) -> list[np.ndarray]:
    return [row.tokens for row in rows]


def asked(row: Text) -> EncodedQuery:
    [query] = queries_of(
        {"query_id": str(row), "features": numbers(row)[:-1], "target": numbers(row)[-1]}, "here"
    )
    answer = EncodedAnswer(tuple(row.tokens.tolist()), N_FEATURES)
    return EncodedQuery(query, (answer,))


def expected_gradients(
    subject: Subject, replica: Replica, rows: Sequence[Text], *, sampled: bool = False
) -> list[dict[str, Tensor]]:
    twin, names = naive.trainable(replica.model), list(replica.modules)
    targets = [subject.sampled(replica.model, row) if sampled else numbers(row)[-1] for row in rows]
    return [
        naive.gradients(twin, names, subject.log_p(twin, row, target))
        for row, target in zip(rows, targets, strict=True)
    ]


def product(replica: Replica, name: str, inputs: Tensor, grads: Tensor) -> Tensor:
    D = grads.T @ inputs
    return torch.cat([D, grads.sum(dim=0)[:, None]], dim=1) if replica.shapes[name].bias else D


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.param


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_the_gradient_of_each_row_is_autograd_s(subject: Subject, batch_tokens: int) -> None:
    """Alone, beside a few and beside all."""
    replica, rows, found = subject.replica(batch_tokens), subject.rows(0), {}

    def step(batch, name, captured) -> None:
        for place, row in enumerate(batch.sequence_ids.tolist()):
            sides = captured.inputs_BRI[place], captured.grads_BRO[place]
            found[row, name] = product(replica, name, *sides)

    for batch in replica.batches(table(tokens_of(rows)), {}):
        assert replica.run(batch, own_labels, step, {}) is batch
    for place, by_module in enumerate(expected_gradients(subject, replica, rows)):
        for name, D in by_module.items():
            assert_same(found[place, name], D, f"{place} {name}", 1e-11)


def test_factors_are_those_of_loops_and_scores_those_of_a_dense_solve(
    subject: Subject, tmp_path: Path
) -> None:
    replica, rows, queries = subject.replica(), subject.rows(0), subject.rows(1, 3)
    factors = fit_factors(replica, tokens_of(rows), tmp_path)
    operator, names = operator_of(factors), list(replica.modules)
    bases = bases_of(operator)

    def of_sampled(twin: nn.Module, row: Text) -> Tensor:
        return subject.log_p(twin, row, subject.sampled(replica.model, row))

    expected = covariances(None, replica.model, names, rows, of_sampled)  # type: ignore[arg-type]
    moments = naive.moments(expected_gradients(subject, replica, rows, sampled=True), bases)
    for name in names:
        found = operator[name].factors
        values = found.inputs_eigenvalues, found.outputs_eigenvalues
        for basis, eigenvalues, of_loops in zip(bases[name], values, expected[name], strict=True):
            assert_same(basis @ torch.diag(eigenvalues) @ basis.T, of_loops, name, 1e-9)
        assert_same(found.moments, moments[name], name, 1e-9)
    for method, damping in (("ekfac", 0.05), ("gradient_product", None)):
        operators = {
            name: naive.dense_operator(*bases[name], operator[name].factors.moments, 0.05)
            for name in names
        }
        scores = dense_scores(
            expected_gradients(subject, replica, queries),
            expected_gradients(subject, replica, rows),
            operators if method == "ekfac" else None,
        )
        encoded = [asked(row) for row in queries]
        bank = make_bank(replica, factors, encoded, tmp_path, method, damping=damping)
        assert_same(all_scores(replica, bank, tokens_of(rows)), scores, method, 1e-9)


def test_a_query_s_gradient_is_autograd_s(subject: Subject) -> None:
    """Of the log-density or log-probability, and its value."""
    replica, rows = subject.replica(), subject.rows(1, 3)
    for row, expected in zip(rows, expected_gradients(subject, replica, rows), strict=True):
        found = query_gradient(replica, asked(row))
        value = float(subject.log_p(replica.model, row, numbers(row)[-1]))
        assert found.value == pytest.approx(value, rel=1e-12)
        for name, sides in found.tokens.items():
            assert_same(product(replica, name, *sides), expected[name], name, 1e-11)


def test_a_prediction_s_gradient_is_autograd_s() -> None:
    subject, [row] = SUBJECTS[0], SUBJECTS[0].rows(1, 1)
    replica, plain = subject.replica(), asked(row)
    answer = replace(plain.answers[0], measurement="prediction")
    found = query_gradient(replica, replace(plain, answers=(answer,)))
    twin = naive.trainable(replica.model)
    value = twin(torch.tensor([numbers(row)[:-1]], dtype=torch.float64)).sum()
    assert found.value == pytest.approx(float(value.detach()), rel=1e-12)
    for name, D in naive.gradients(twin, list(replica.modules), value).items():
        assert_same(product(replica, name, *found.tokens[name]), D, name, 1e-11)


def test_influence_on_a_linear_regression_is_that_of_fitting_again(tmp_path: Path) -> None:
    """By K-FAC, which is exact of one layer with one output but for the scale of its noise.

    The scale is the mean of squares of the sampled noise, 1 for as many rows as there may be.
    """
    generator = np.random.default_rng(3)
    numbers_NF = generator.normal(size=(400, N_FEATURES + 1)).astype(np.float32)
    X = np.concatenate([numbers_NF[:, :-1], np.ones((400, 1))], axis=1).astype(np.float64)
    y = numbers_NF[:, -1].astype(np.float64)
    weights = np.linalg.solve(X.T @ X, X.T @ y)
    subject = Subject("linear", REGRESSION, lambda: nn.Sequential(nn.Linear(N_FEATURES, 1)))
    replica = subject.replica(1000)
    replica.model[0].weight.data = torch.tensor(weights[None, :-1])
    replica.model[0].bias.data = torch.tensor(weights[-1:])
    tokens = list(numbers_NF.view(np.int32).astype(np.int64))
    factors = fit_factors(replica, tokens, tmp_path, row_group_tokens=500)
    scale = float(operator_of(factors)["0"].factors.outputs_eigenvalues[0])
    noise = [
        NormalDist().inv_cdf(np.random.Generator(np.random.Philox(key=[SEED, n])).random())
        for n in range(400)
    ]
    assert scale == pytest.approx(np.mean(np.square(noise)), rel=1e-9)
    assert scale == pytest.approx(1, abs=4 * math.sqrt(2 / 400))
    plain = asked(Text(tokens[7]))
    query = replace(plain, answers=(replace(plain.answers[0], measurement="prediction"),))
    bank = make_bank(replica, factors, [query], tmp_path, "kfac", damping=1e-12)
    found = all_scores(replica, bank, tokens)[:, 0].numpy() * scale / 400

    def predicted(row: int, more: float) -> float:
        counts = np.ones(400)
        counts[row] += more
        return float(X[7] @ np.linalg.solve((X.T * counts) @ X, (X.T * counts) @ y))

    for row in (0, 7, 123, 399):
        change = (predicted(row, 1e-4) - predicted(row, -1e-4)) / 2e-4
        assert found[row] == pytest.approx(change, rel=1e-6)


def test_queries_are_rows_by_place_or_by_column() -> None:
    forms = [[1, -2.5, 3, 0], {"b": -2.5, "a": 1, "d": 0, "c": 3}]
    queries = [
        query
        for n, features in enumerate(forms)
        for query in queries_of({"query_id": str(n), "features": features, "target": 2}, "here")
    ]
    found = encode_queries(queries, FEATURES, None, kind=REGRESSION)
    wanted = tuple(bits(number) for number in (1, -2.5, 3, 0, 2))
    assert [one.answers[0].tokens for one in found] == [wanted, wanted]
    assert found[0].digest == found[1].digest


class _OfRows(ObjectiveConformance):
    lengths = (N_FEATURES + 1,) * 5

    def test_labels_are_the_tokens_that_are_predicted_there(self) -> None:
        found = self._targets(self._sequences)
        assert found.places_N.tolist() == list(range(5))
        numbers = [row[-1:].astype(np.int32).view(np.float32)[0] for row in self._sequences]
        assert found.labels_N.tolist() == [type(found.labels_N.tolist()[0])(n) for n in numbers]

    def test_targets_are_of_their_sequences(self) -> None:
        found = self._targets(self._sequences)
        assert found.sequences_N.tolist() == list(range(5))
        assert found.counts_B.tolist() == [1] * 5

    def test_a_neighbour_and_padding_change_nothing(self) -> None:
        found = self._targets(self._sequences)
        for place, sequence in enumerate(self._sequences):
            alone = self._targets([sequence], place)
            assert alone.places_N.tolist() == [0]
            assert alone.labels_N.tolist() == found.labels_N[place : place + 1].tolist()


class TestNumberOfRow(_OfRows):
    def objective(self) -> Objective:
        return TargetOfRow(is_class=False)


class TestClassOfRow(_OfRows):
    def objective(self) -> Objective:
        return TargetOfRow(is_class=True)
