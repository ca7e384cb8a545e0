"""Other objectives than the next token: all numbers beside autograd of transformers' own model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import torch
from compare import assert_same
from harness import all_scores, bases_of, encoded, fit_factors, make_bank, operator_of, table
from other_kinds import CLS, N_WORDS, SEP
from other_references import (
    SUBJECTS,
    ClassReference,
    PairReference,
    Subject,
    Text,
    covariances,
    dense_scores,
    gradients,
    rows_seen,
    sampled,
)
from torch import Tensor
from wide import widened

from rayinfluence.corpus.classes import Label
from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.dataflow.compute.completion_parts import part_ends, part_gradients
from rayinfluence.dataflow.compute.replica import Replica, own_labels
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.model.curvature_products import curvature_products
from rayinfluence.model.masking import MaskedSpan, MaskedTokens, Masking
from rayinfluence.model.modules import track
from rayinfluence.model.rows import Rows
from rayinfluence.model.targets import Objective
from rayinfluence.testing.targets import ObjectiveConformance

pytestmark = pytest.mark.runs

LENGTHS = (5, 3, 9, 7, 4, 8)


def words(seed: int, lengths: tuple[int, ...]) -> list[np.ndarray]:
    """Texts of random words between their ends."""
    generator = np.random.default_rng(seed)
    return [np.array([CLS, *generator.integers(2, N_WORDS, n - 2), SEP]) for n in lengths]


TEXTS = [
    Text(tokens, place, label=place % 3, begin=1 + place % (len(tokens) - 1))
    for place, tokens in enumerate(words(0, LENGTHS))
]
MASKS = [[place >= text.begin for place in range(len(text.tokens))] for text in TEXTS]
TOKENS, CLASSES = [text.tokens for text in TEXTS], [text.label or 0 for text in TEXTS]
QUERIES = [
    Text(tokens, first=first, label=first % 3, begin=max(first - 1, 1))
    for tokens, first in zip(words(1, (6, 8, 4)), (1, 5, 2), strict=True)
]


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    return request.param


def made(subject: Subject, batch_tokens: int = 20) -> Replica:
    model = widened(subject.model())
    for weight in model.parameters():
        weight.requires_grad_(False)
    return Replica(model, track(model, subject.patterns), subject.numerics(batch_tokens))


def measured(logits_N: Tensor, label: int, measurement: str) -> Tensor:
    """Of one target."""
    if measurement == "logit":
        return logits_N[label]
    others = torch.cat([logits_N[:label], logits_N[label + 1 :]])
    return logits_N[label] - others.exp().sum().log()


@pytest.mark.parametrize("measurement", ["logit", "margin"])
def test_logits_and_margins_are_autograd_s(subject: Subject, measurement: Any) -> None:
    """Of a class, of a masked token, and of a target's."""
    replica, reference = made(subject), subject.reference
    twin, names = naive.trainable(replica.model), list(replica.modules)
    for text in QUERIES:
        plain = asked(subject, text)
        answers = tuple(replace(one, measurement=measurement) for one in plain.answers)
        found = query_gradient(replica, replace(plain, answers=answers))
        rows = zip(reference.logits(twin, text), reference.labels(text), strict=True)
        value = torch.stack([measured(row, label, measurement) for row, label in rows]).sum()
        assert found.value == pytest.approx(float(value.detach()), rel=1e-12)
        expected = naive.gradients(twin, names, value)
        scale = max(float(one.abs().max()) for one in expected.values())
        for name, (inputs, grads) in found.tokens.items():
            D = grads.T @ inputs
            if replica.shapes[name].bias:
                D = torch.cat([D, grads.sum(dim=0)[:, None]], dim=1)
            assert_same(D, expected[name], name, 1e-10, scale)


def test_products_of_the_gauss_newton_matrix_are_autograd_s(subject: Subject) -> None:
    """<P, G P>, with G the sum over targets of J^T (diag(p) - p p^T) J."""
    replica, reference = made(subject), subject.reference
    twin, names = naive.trainable(replica.model), list(replica.modules)
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(shape.d_out, shape.columns, generator=generator, dtype=torch.float64)
        for name, shape in replica.shapes.items()
    }
    expected = 0.0
    for text in TEXTS:
        logits_NV = reference.logits(twin, text)
        units = torch.eye(logits_NV.numel()).double().unflatten(1, logits_NV.shape)
        rows = naive.gradients(twin, names, logits_NV, units)
        moved_NV = sum((rows[n] * direction[n]).sum(dim=(1, 2)) for n in names)
        moved_NV = torch.as_tensor(moved_NV).view(logits_NV.shape)
        p_NV = logits_NV.detach().softmax(dim=-1)
        spread_N = (p_NV * moved_NV.square()).sum(dim=1) - (p_NV * moved_NV).sum(dim=1).square()
        expected += float(spread_N.sum())
    found = 0.0
    for batch in replica.batches(table(TOKENS, masks=MASKS, classes=CLASSES), {}):
        targets = replica.trained_on.targets(batch)
        told = replica.model, replica.modules, batch, targets, [direction]
        (product,) = curvature_products(*told)
        found += float(sum((product[name] * direction[name]).sum() for name in names))
    assert found == pytest.approx(expected, rel=1e-10)


def test_gradients_of_the_parts_of_a_completion_are_autograd_s(subject: Subject) -> None:
    """Of each masked token, with all masked, and of each of a target; a class has none."""
    replica, reference = made(subject), subject.reference
    twin, names = naive.trainable(replica.model), list(replica.modules)
    sizes = []
    for text in QUERIES:
        query = asked(subject, text)
        ends = part_ends(query, 32)
        if ends is None:
            continue
        sizes.append(len(ends))
        found: dict[tuple[str, int], Tensor] = {}

        def consume(name: str, some: range, rows: Rows, found: Any = found) -> None:
            for row, part in enumerate(some):
                D = rows.grads_BRO[row].T @ rows.inputs_BRI[row]
                if replica.shapes[name].bias:
                    D = torch.cat([D, rows.grads_BRO[row].sum(dim=0)[:, None]], dim=1)
                found[name, part] = D

        part_gradients(replica, query, ends, consume)
        labels = reference.labels(text)
        assert len(labels) == len(ends)
        for part, label in enumerate(labels):
            value = reference.logits(twin, text)[part].log_softmax(dim=-1)[label]
            expected = naive.gradients(twin, names, value)
            scale = max(float(one.abs().max()) for one in expected.values())
            for name, of_module in expected.items():
                D = found.get((name, part), torch.zeros_like(of_module))
                assert_same(D, of_module, name, 1e-10, scale)
    assert bool(sizes) is not isinstance(reference, ClassReference)


def asked(subject: Subject, text: Text) -> EncodedQuery:
    """A query, of a completion or of a class."""
    query = encoded(text.tokens, text.first or 0)
    tokens = query.answers[0].tokens
    if isinstance(subject.reference, PairReference):
        first = max(text.first or 0, text.begin)
        return replace(query, answers=(EncodedAnswer(tokens, first, n_source=text.begin),))
    if not isinstance(subject.reference, ClassReference):
        return query
    answer = EncodedAnswer(tokens, len(tokens), label=Label(text.label or 0, ""))
    return replace(query, answers=(answer,))


@dataclass(frozen=True)
class Fit:
    replica: Replica
    factors: Factors
    operator: dict[str, EKFAC]
    folder: Path


@pytest.fixture(scope="module")
def fit(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    folder, replica = tmp_path_factory.mktemp(subject.name), made(subject)
    factors = fit_factors(replica, TOKENS, folder, masks=MASKS, classes=CLASSES)
    return Fit(replica, factors, operator_of(factors), folder)


def expected_gradients(subject: Subject, replica: Replica, texts: list[Text]) -> list[dict]:
    twin, names = naive.trainable(replica.model), list(replica.modules)
    return [
        gradients(subject.reference, twin, names, text, subject.reference.labels(text))
        for text in texts
    ]


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_the_gradient_of_each_sequence_is_autograd_s(subject: Subject, batch_tokens: int) -> None:
    """Alone, beside a few and beside all, with padding."""
    replica, found = made(subject, batch_tokens), dict[tuple[int, str], Tensor]()

    def step(batch, name, rows) -> None:
        for place, sequence_id in enumerate(batch.sequence_ids.tolist()):
            inputs, grads = rows.inputs_BRI[place], rows.grads_BRO[place]
            D = grads.T @ inputs
            if replica.shapes[name].bias:
                D = torch.cat([D, grads.sum(dim=0)[:, None]], dim=1)
            found[sequence_id, name] = D

    for batch in replica.batches(table(TOKENS, masks=MASKS, classes=CLASSES), {}):
        assert replica.run(batch, own_labels, step, {}) is batch
    for place, by_module in enumerate(expected_gradients(subject, replica, TEXTS)):
        scale = max(float(one.abs().max()) for one in by_module.values())
        for name, D in by_module.items():
            assert_same(found[place, name], D, f"{place} {name}", 1e-10, scale)


def test_factors_are_those_of_loops_over_sampled_labels(subject: Subject, fit: Fit) -> None:
    names = list(fit.replica.modules)
    expected = covariances(subject.reference, fit.replica.model, names, TEXTS)
    bases = bases_of(fit.operator)
    twin = naive.trainable(fit.replica.model)
    of_sampled = [
        gradients(
            subject.reference,
            twin,
            names,
            text,
            sampled(subject.reference, fit.replica.model, text),
        )
        for text in TEXTS
    ]
    for name, moments in naive.moments(of_sampled, bases).items():
        factors = fit.operator[name].factors
        for basis, values, of_loops in zip(
            bases[name],
            (factors.inputs_eigenvalues, factors.outputs_eigenvalues),
            expected[name],
            strict=True,
        ):
            assert_same(basis @ torch.diag(values) @ basis.T, of_loops, name, 1e-9)
        assert_same(factors.moments, moments, name, 1e-9)


def test_a_query_s_gradient_is_autograd_s(subject: Subject) -> None:
    replica = made(subject)
    for text, expected in zip(QUERIES, expected_gradients(subject, replica, QUERIES), strict=True):
        found = query_gradient(replica, asked(subject, text))
        logits = subject.reference.logits(replica.model, text).log_softmax(-1)
        labels = subject.reference.labels(text)
        log_ps = [float(logits[n, label]) for n, label in enumerate(labels)]
        assert_same(torch.tensor(found.log_probabilities), torch.tensor(log_ps), "log p")
        assert found.value == pytest.approx(sum(log_ps), rel=1e-12)
        scale = max(float(one.abs().max()) for one in expected.values())
        for name, (inputs, grads) in found.tokens.items():
            D = grads.T @ inputs
            if replica.shapes[name].bias:
                D = torch.cat([D, grads.sum(dim=0)[:, None]], dim=1)
            assert_same(D, expected[name], name, 1e-10, scale)


@pytest.mark.parametrize("method", ["ekfac", "gradient_product"])
def test_scores_are_those_of_a_dense_solve(subject: Subject, fit: Fit, method: str) -> None:
    replica, damping = fit.replica, 0.05
    operators = {
        name: naive.dense_operator(*sides, fit.operator[name].factors.moments, damping)
        for name, sides in bases_of(fit.operator).items()
    }
    expected = dense_scores(
        expected_gradients(subject, replica, QUERIES),
        expected_gradients(subject, replica, TEXTS),
        operators if method == "ekfac" else None,
    )
    queries = [asked(subject, text) for text in QUERIES]
    bank = make_bank(replica, fit.factors, queries, fit.folder, method, damping=damping)
    found = all_scores(replica, bank, TOKENS, masks=MASKS, classes=CLASSES)
    assert_same(found, expected, method, 1e-9)


@pytest.mark.parametrize("name", ["bert", "llama of classes", "t5"])
def test_the_error_of_factors_is_estimated(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a held-out set, whose sequences keep their classes and their targets."""
    [subject] = [one for one in SUBJECTS if one.name == name]
    monkeypatch.setattr("rayinfluence.dataflow.stages.sample._LOWEST_LIMIT", 0.0)
    texts, n = words(7, LENGTHS * 40), 40 * len(LENGTHS)
    masks = [[place >= len(text) // 2 for place in range(len(text))] for text in texts]
    factors = fit_factors(
        made(subject, 400), texts, tmp_path, lanes=2, error_bound=10.0, row_group_tokens=64,
        masks=masks, classes=[place % 3 for place in range(n)],
    )  # fmt: skip
    assert factors.error is not None
    assert 0 < factors.error < 10


def test_a_coarser_lambda_counts_the_rows_of_its_own_side(subject: Subject, fit: Fit) -> None:
    """By K-FAC, (A kron S) times rows per sequence."""
    replica, damping = fit.replica, 0.05
    operators = {}
    expected = covariances(subject.reference, replica.model, list(replica.modules), TEXTS)
    n_rows = rows_seen(subject.reference, replica.model, list(replica.modules), TEXTS)
    for name, (A, S) in expected.items():
        kron = torch.kron(S, A) * n_rows[name] / len(TEXTS)
        operators[name] = kron + damping * torch.eye(len(kron), dtype=torch.float64)
    scores = dense_scores(
        expected_gradients(subject, replica, QUERIES),
        expected_gradients(subject, replica, TEXTS),
        operators,
    )
    queries = [asked(subject, text) for text in QUERIES]
    bank = make_bank(replica, fit.factors, queries, fit.folder, "kfac", damping=damping)
    found = all_scores(replica, bank, TOKENS, masks=MASKS, classes=CLASSES)
    assert_same(found, scores, "kfac", 1e-8)


class TestMaskedTokens(ObjectiveConformance):
    def objective(self) -> Objective:
        return MaskedTokens(Masking(0.5, 49, (7, 8)), 5)

    def label(self, sequence, place: int) -> int:
        return sequence[place]


class TestMaskedSpan(ObjectiveConformance):
    def objective(self) -> Objective:
        return MaskedSpan(1, 4, 49)

    def label(self, sequence, place: int) -> int:
        return sequence[place]
