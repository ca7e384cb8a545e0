"""A loss on some tokens alone: gradients, factors and scores beside what autograd makes of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from cases import Case, token_sequences
from compare import assert_same
from harness import all_scores, encoded, fit_factors, make_bank, make_replica, table
from torch import Tensor

from rayinfluence.dataflow.compute.replica import Replica, own_labels, sampled_labels
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.model.batches import make_batch
from rayinfluence.model.targets import Mean, NextTokens, Objective
from rayinfluence.testing.targets import ObjectiveConformance

CPU = torch.device("cpu")


def masks() -> list[list[bool]]:
    """Of each sequence the second half counts; of one nothing, of another its first token too."""
    found = [[2 * t >= len(tokens) for t in range(len(tokens))] for tokens in token_sequences()]
    found[1] = [False] * len(found[1])
    found[2] = [True] + [t % 2 == 0 for t in range(1, len(found[2]))]
    return found


def replica_of(case: Case, batch_tokens: int = 20, reduction: str = "sum") -> Replica:
    made = make_replica(case, batch_tokens)
    numerics = replace(made.numerics, loss="completion", reduction=reduction)
    return Replica(made.model, made.modules, numerics)


def expected_gradients(replica: Replica, mean: bool = False) -> list[dict[str, Tensor]]:
    """D of each sequence by autograd of the tokens that count."""
    twin, names = naive.trainable(replica.model), list(replica.modules)
    found = []
    for tokens, mask in zip(token_sequences(), masks(), strict=True):
        logits = naive.logits(twin, tokens)
        counted = [t for t in range(1, len(tokens)) if mask[t]]
        values = [logits[t - 1].log_softmax(-1)[int(tokens[t])] for t in counted]
        value = torch.stack(values).sum() if values else logits.sum() * 0
        found.append(naive.gradients(twin, names, value / max(len(values), 1) if mean else value))
    return found


class TestMasked(ObjectiveConformance):
    """Where nothing says what counts, all does."""

    def objective(self) -> Objective:
        return NextTokens(masked=True)


def test_targets_are_the_tokens_that_count() -> None:
    sequences = [np.arange(1, 6), np.arange(10, 13), np.arange(20, 22)]
    said = [np.array([1, 0, 1, 0, 1], bool), None, np.array([1, 0], bool)]
    batch = make_batch(sequences, range(3), CPU, said)
    found = NextTokens(masked=True).targets(batch)
    assert found.labels_N.tolist() == [3, 5, 11, 12]
    assert found.sequences_N.tolist() == [0, 0, 1, 1]
    assert found.counts_B.tolist() == [2, 2, 0]
    assert NextTokens().targets(batch).counts_B.tolist() == [4, 2, 1]
    weights = Mean(NextTokens(masked=True)).targets(batch).weights_N
    assert weights is not None
    assert weights.tolist() == [0.5] * 4


def test_a_batch_without_some_sequences_keeps_the_others_masks() -> None:
    sequences = [np.arange(1, 4), np.arange(4, 7)]
    said = [np.array([0, 1, 0], bool), np.array([0, 0, 1], bool)]
    rest = make_batch(sequences, range(2), CPU, said).without(np.array([True, False]))
    assert rest is not None
    assert NextTokens(masked=True).targets(rest).labels_N.tolist() == [6]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_gradients_are_those_of_what_counts(case: Case, batch_tokens: int, reduction: str) -> None:
    replica = replica_of(case, batch_tokens, reduction)
    found = {}

    def step(batch, name, rows) -> None:
        products = rows.grads_BRO.transpose(1, 2) @ rows.inputs_BRI
        for sequence_id, product in zip(batch.sequence_ids.tolist(), products, strict=True):
            found[sequence_id, name] = product

    for batch in replica.batches(table(token_sequences(), masks=masks()), {}):
        replica.run(batch, own_labels, step, {})
    for index, by_module in enumerate(expected_gradients(replica, reduction == "mean")):
        scale = max(float(one.abs().max()) for one in by_module.values()) or 1.0
        for name, gradient in by_module.items():
            weight = gradient[:, : replica.shapes[name].d_in]
            if (index, name) not in found:  # an expert that no token of its batch chose
                assert replica.shapes[name].routed
                found[index, name] = torch.zeros_like(weight)
            assert_same(found[index, name], weight, f"{index}, {name}", 1e-12, scale)


def test_labels_are_drawn_where_tokens_count(case: Case) -> None:
    """As many as there are targets, whatever stands beside them."""
    replica = replica_of(case)
    for batch in replica.batches(table(token_sequences(), masks=masks()), {}):
        targets = NextTokens(masked=True).targets(batch)
        choose = sampled_labels(0, batch, targets)
        logits = torch.zeros(len(targets.places_N), 50, dtype=torch.float64)
        assert len(choose(logits, slice(0, len(logits)))) == len(targets.places_N)
    quarantine: dict[int, str] = {}
    for batch in replica.batches(table(token_sequences(), masks=masks()), quarantine):
        replica.run(batch, partial(sampled_labels, 0), lambda *_: None, quarantine)
    assert quarantine == {}


def test_moments_and_scores_are_of_what_counts(case: Case, tmp_path: Path) -> None:
    """Lambda by a loop, and scores as <P_q, D> of autograd's D; A is of all tokens as before."""
    sequences, replica = token_sequences(), replica_of(case)
    ours = fit_factors(replica, sequences, tmp_path / "ours", labels="data", masks=masks())
    plain = fit_factors(make_replica(case), sequences, tmp_path / "all", labels="data")
    expected = expected_gradients(replica)
    for name, module in ours.by_module().items():
        Q_A, Q_S = module.inputs_basis.dense(), module.outputs_basis.dense()
        squares = [(Q_S.T @ D[name] @ Q_A).square() for D in expected]
        assert_same(module.moments, torch.stack(squares).mean(dim=0), name, 1e-9)
        other = plain.by_module()[name]
        assert_same(module.inputs_eigenvalues, other.inputs_eigenvalues, name)
    query = encoded(sequences[0], 3)
    bank = make_bank(replica, ours, [query], tmp_path / "bank")
    found = all_scores(replica, bank, sequences, masks=masks())[:, 0]
    for index, by_module in enumerate(expected):
        score = 0.0
        for name, gradient in by_module.items():
            whole = bank.modules[name].matrix_QOJ[0]
            score += float((whole * gradient[:, : whole.shape[1]]).sum())
        if index == 1:  # without a target it has no direction, and is in no table
            assert score == 0.0
            assert found[index].isnan()
        else:
            # A partial keeps scores in float32.
            largest = float(found.nan_to_num().abs().max())
            assert_same(found[index], torch.tensor(score).double(), str(index), 1e-6, largest)


def test_a_query_asks_of_its_completion_all_the_same(case: Case) -> None:
    query = encoded(token_sequences()[0], 4)
    ours = query_gradient(replica_of(case), query)
    assert ours.log_probability == query_gradient(make_replica(case), query).log_probability
