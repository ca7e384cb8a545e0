"""An objective of the user's own: gradients, factors and scores beside autograd and loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from compare import assert_same
from harness import all_scores, bases_of, encoded, fit_factors, make_bank, operator_of, table
from other_kinds import N_WORDS
from other_references import SUBJECTS, Reference, Subject, Text, covariances, dense_scores
from torch import Tensor, nn
from wide import widened

from rayinfluence.dataflow.compute.replica import Numerics, Replica, own_labels
from rayinfluence.model.modules import track
from rayinfluence.named_function import NamedFunction
from rayinfluence.testing import tiny_gpt2

LENGTHS = (5, 3, 9, 7, 4, 8)


class CausalReference:
    """Each token given those before it."""

    def logits(self, model: nn.Module, text: Text) -> Tensor:
        return model(torch.tensor([text.tokens.tolist()])).logits[0, :-1]

    def labels(self, text: Text) -> list[int]:
        return text.tokens[1:].tolist()


class CompletionReference(CausalReference):
    """Those tokens alone that the loss counted."""

    def logits(self, model: nn.Module, text: Text) -> Tensor:
        return super().logits(model, text)[text.begin - 1 :]

    def labels(self, text: Text) -> list[int]:
        return text.tokens[text.begin :].tolist()


def causal(name: str, loss: str, reference: Reference) -> Subject:
    def numerics(batch_tokens: int) -> Numerics:
        return Numerics("float64", "cpu", batch_tokens, 2**17, "eager", 3, loss=loss)

    return Subject(name, tiny_gpt2, ("*.mlp.*",), numerics, reference)


CAUSAL = causal("gpt2", "all", CausalReference())
ALL = [CAUSAL, causal("gpt2 on completions", "completion", CompletionReference()), *SUBJECTS]
#: One of each kind, of which factors are fitted.
FITTED = [
    one for one in ALL if one.name in ("gpt2", "gpt2 on completions", "bert", "bert of classes")
]


def focal(logits_NV: Tensor, labels: Sequence[int], _n_tokens: int) -> Tensor:
    """Target by target."""
    total = torch.zeros((), dtype=torch.float64)
    for logits_V, label in zip(logits_NV, labels, strict=True):
        p = torch.softmax(logits_V, dim=0)[label]
        total = total + (1 - p) ** 2 * torch.log(p)
    return total


def squared_error(logits_NV: Tensor, labels: Sequence[int], n_tokens: int) -> Tensor:
    """Target by target."""
    total = torch.zeros((), dtype=torch.float64)
    for logits_V, label in zip(logits_NV, labels, strict=True):
        total = total - (logits_V[label] - 3) ** 2 - (logits_V**2).sum() / len(logits_V)
    return total / n_tokens


BY_LOOPS = {"focal": focal, "squared_error": squared_error}


def texts(seed: int) -> list[Text]:
    generator = np.random.default_rng(seed)
    return [
        Text(generator.integers(2, N_WORDS, n), place, label=place % 3, begin=1 + place % (n - 1))
        for place, n in enumerate(LENGTHS)
    ]


TEXTS = texts(0)
ROWS = {
    "masks": [[place >= text.begin for place in range(len(text.tokens))] for text in TEXTS],
    "classes": [place % 3 for place in range(len(TEXTS))],
}
TOKENS = [text.tokens for text in TEXTS]


def made(subject: Subject, function: str, batch_tokens: int = 20) -> Replica:
    model = widened(subject.model())
    for weight in model.parameters():
        weight.requires_grad_(False)
    named = NamedFunction.of("objective.kind", f"own_objectives:{function}")
    numerics = replace(subject.numerics(batch_tokens), function=named)
    return Replica(model, track(model, subject.patterns), numerics)


def value(subject: Subject, function: str, model: nn.Module, text: Text) -> Tensor:
    """What a function gives a text, by loops."""
    logits_NV, labels = subject.reference.logits(model, text), subject.reference.labels(text)
    n_tokens = 1 if "classes" in subject.name else len(text.tokens)
    return BY_LOOPS[function](logits_NV, labels, n_tokens)


def expected_gradients(
    subject: Subject, function: str, replica: Replica, some: Sequence[Text]
) -> list[dict[str, Tensor]]:
    twin, names = naive.trainable(replica.model), list(replica.modules)
    return [naive.gradients(twin, names, value(subject, function, twin, one)) for one in some]


@pytest.mark.parametrize("function", BY_LOOPS)
@pytest.mark.parametrize("subject", ALL, ids=lambda subject: subject.name)
@pytest.mark.parametrize("batch_tokens", [1, 20])
def test_the_gradient_of_each_sequence_is_autograd_s(
    subject: Subject, function: str, batch_tokens: int
) -> None:
    """Alone, and beside others with padding."""
    replica, found = made(subject, function, batch_tokens), dict[tuple[int, str], Tensor]()

    def step(batch, name, rows) -> None:
        for place, sequence_id in enumerate(batch.sequence_ids.tolist()):
            D = rows.grads_BRO[place].T @ rows.inputs_BRI[place]
            if replica.shapes[name].bias:
                D = torch.cat([D, rows.grads_BRO[place].sum(dim=0)[:, None]], dim=1)
            found[sequence_id, name] = D

    for batch in replica.batches(table(TOKENS, **ROWS), {}):
        assert replica.run(batch, own_labels, step, {}) is batch
    for place, by_module in enumerate(expected_gradients(subject, function, replica, TEXTS)):
        scale = max(float(one.abs().max()) for one in by_module.values())
        assert scale > 0
        for name, D in by_module.items():
            assert_same(found[place, name], D, f"{place} {name}", 1e-10, scale)


@pytest.mark.parametrize("function", BY_LOOPS)
@pytest.mark.parametrize("subject", FITTED, ids=lambda subject: subject.name)
def test_factors_and_scores_are_those_of_loops_and_of_a_dense_solve(
    subject: Subject, function: str, tmp_path: Path
) -> None:
    """A, S and Lambda of the corpus's own labels; EK-FAC and the product of gradients."""
    replica = made(subject, function)
    factors = fit_factors(replica, TOKENS, tmp_path, labels="data", **ROWS)
    operator = operator_of(factors)
    bases, gradients = bases_of(operator), expected_gradients(subject, function, replica, TEXTS)
    moments = naive.moments(gradients, bases)
    maximised = partial(value, subject, function)
    loops = covariances(subject.reference, replica.model, list(replica.modules), TEXTS, maximised)
    for name, (of_inputs, of_outputs) in loops.items():
        found = operator[name].factors
        (Q_A, Q_S), of_A, of_S = bases[name], found.inputs_eigenvalues, found.outputs_eigenvalues
        assert_same(Q_A @ torch.diag(of_A) @ Q_A.T, of_inputs, f"{name} A", 1e-9)
        assert_same(Q_S @ torch.diag(of_S) @ Q_S.T, of_outputs, f"{name} S", 1e-9)
        assert_same(found.moments, moments[name], f"{name} Lambda", 1e-9)
    if subject is not CAUSAL:
        return
    damping, asked = 0.05, texts(1)[:3]
    twin = naive.trainable(replica.model)
    of_queries = [
        naive.gradients(twin, list(replica.modules), naive.log_probability(twin, one.tokens))
        for one in asked
    ]
    for method, operators in (
        ("ekfac", {n: naive.dense_operator(*bases[n], moments[n], damping) for n in bases}),
        ("gradient_product", None),
    ):
        queries = [encoded(one.tokens) for one in asked]
        bank = make_bank(replica, factors, queries, tmp_path, method, damping=damping)
        found_NQ = all_scores(replica, bank, TOKENS, **ROWS)
        assert_same(found_NQ, dense_scores(of_queries, gradients, operators), method, 1e-9)


def test_log_probability_as_a_function_is_that_of_no_function(tmp_path: Path) -> None:
    """The same factors, and the same scores, by another way."""
    found = []
    for place, replica in enumerate(
        (made(CAUSAL, "log_probability"), made(CAUSAL, "log_probability"))
    ):
        if place:
            replica.numerics = replace(replica.numerics, function=None)
        folder = tmp_path / str(place)
        factors = fit_factors(replica, TOKENS, folder, labels="data")
        bank = make_bank(replica, factors, [encoded(TOKENS[0])], folder, "ekfac", damping=0.05)
        found.append(all_scores(replica, bank, TOKENS))
    assert_same(*found, "scores", 1e-10)
