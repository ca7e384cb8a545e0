"""Objectives: which tokens count, and what that does to gradients, factors and scores."""

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
from harness import encoded, fit_factors, make_replica, table

from rayinfluence.dataflow.compute import replica as replica_module
from rayinfluence.dataflow.compute.replica import Replica, own_labels, sampled_labels
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.model.batches import Batch
from rayinfluence.model.targets import (
    OBJECTIVES,
    MeanOfNextTokens,
    NextTokens,
    Objective,
    Targets,
)
from rayinfluence.testing.targets import ObjectiveConformance


class TestNextTokens(ObjectiveConformance):
    def objective(self) -> Objective:
        return NextTokens()


class TestCompletion(ObjectiveConformance):
    def objective(self) -> Objective:
        return NextTokens(first=4)


class TestMeanOfNextTokens(ObjectiveConformance):
    def objective(self) -> Objective:
        return MeanOfNextTokens()


def test_those_of_training_have_names() -> None:
    assert set(OBJECTIVES) == {"causal", "causal_mean"}


def averaging(case: Case, batch_tokens: int) -> Replica:
    replica = make_replica(case, batch_tokens)
    numerics = replace(replica.numerics, objective="causal_mean")
    return Replica(replica.model, replica.modules, numerics)


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_gradients_are_those_of_the_mean(case: Case, batch_tokens: int) -> None:
    replica, sequences = averaging(case, batch_tokens), token_sequences()
    found = {}

    def step(batch, name, rows) -> None:
        products = rows.grads_BRO.transpose(1, 2) @ rows.inputs_BRI
        for sequence_id, product in zip(batch.sequence_ids.tolist(), products, strict=True):
            found[sequence_id, name] = product

    for batch in replica.batches(table(sequences), {}):
        replica.run(batch, own_labels, step, {})
    expected = naive.sequence_gradients(replica.model, list(replica.modules), sequences)
    for index, by_module in enumerate(expected):
        n_targets = len(sequences[index]) - 1
        scale = max(float(one.abs().max()) for one in by_module.values()) / n_targets
        for name, gradient in by_module.items():
            weight = gradient[:, : replica.shapes[name].d_in] / n_targets
            assert_same(found[index, name], weight, f"{index}, {name}", 1e-12, scale)


def test_moments_are_those_of_the_mean(case: Case, tmp_path: Path) -> None:
    """Lambda weighs each sequence by one over its targets, squared, and A does not change."""
    sequences = token_sequences()
    replica = averaging(case, 20)
    ours = fit_factors(replica, sequences, tmp_path / "mean", labels="data")
    theirs = fit_factors(make_replica(case), sequences, tmp_path / "sum", labels="data")
    gradients = naive.sequence_gradients(replica.model, list(replica.modules), sequences)
    for name, module in ours.by_module().items():
        Q_A, Q_S = module.inputs_basis.dense(), module.outputs_basis.dense()
        squares = [
            (Q_S.T @ D[name] @ Q_A / (len(tokens) - 1)).square()
            for D, tokens in zip(gradients, sequences, strict=True)
        ]
        assert_same(module.moments, torch.stack(squares).mean(dim=0), name, 1e-9)
        other = theirs.by_module()[name]
        assert_same(module.inputs_eigenvalues, other.inputs_eigenvalues, name)


def test_a_query_is_a_sum_all_the_same(case: Case) -> None:
    query = encoded(token_sequences()[0], 4)
    ours = query_gradient(averaging(case, 20), query)
    assert ours.log_probability == query_gradient(make_replica(case), query).log_probability


class Late:
    """The third token and those after it: short sequences have no target."""

    def targets(self, batch: Batch) -> Targets:
        return NextTokens(3).targets(batch)


def test_a_batch_without_targets_has_a_gradient_of_zero(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_module, "OBJECTIVES", {"causal": Late()})
    replica, found = make_replica(case), []
    table_ = table([np.array([1, 2]), np.array([3, 4])])
    (batch,) = replica.batches(table_, {})
    for labels in (own_labels, partial(sampled_labels, 0)):
        quarantine: dict[int, str] = {}
        done = replica.run(batch, labels, lambda *seen: found.append(seen[2]), quarantine)
        assert done is batch
        assert quarantine == {}
    assert all(not rows.grads_BRO.any() for rows in found)
