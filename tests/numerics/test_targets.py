"""Objectives: which tokens count, and what that does to gradients, factors and scores."""

from __future__ import annotations

from collections.abc import Sequence
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
from rayinfluence.model.objectives import OBJECTIVES
from rayinfluence.model.targets import Mean, NextTokens, Objective, Targets
from rayinfluence.objective_kinds import KINDS
from rayinfluence.testing.targets import ObjectiveConformance


class TestNextTokens(ObjectiveConformance):
    def objective(self) -> Objective:
        return NextTokens()


class TestCompletion(ObjectiveConformance):
    def objective(self) -> Objective:
        return NextTokens(first=4)


class TestMeanOfNextTokens(ObjectiveConformance):
    def objective(self) -> Objective:
        return Mean(NextTokens())


class EveryOther(NextTokens):
    """Somebody else's: each other token is predicted, from where it stands."""

    def targets(self, batch: Batch) -> Targets:
        width = batch.shape[1]
        places = [
            s * width + t for s, n in enumerate(batch.lengths_B.tolist()) for t in range(0, n, 2)
        ]
        places_N = batch.on_device(np.array(places, dtype=np.int64))
        counts_B = (batch.lengths_B + 1) // 2
        return Targets(places_N, batch.tokens_BT.flatten()[places_N], places_N // width, counts_B)


class TestEveryOther(ObjectiveConformance):
    def objective(self) -> Objective:
        return EveryOther()

    def label(self, sequence: Sequence[int], place: int) -> int:
        return sequence[place]


class Shuffled(NextTokens):
    """Predicts tokens that are elsewhere in the vocabulary."""

    def targets(self, batch: Batch) -> Targets:
        found = super().targets(batch)
        return replace(found, labels_N=(found.labels_N + 1) % 50)


class Itself(NextTokens):
    """Each token predicts itself."""

    def targets(self, batch: Batch) -> Targets:
        found = super().targets(batch)
        return replace(found, labels_N=batch.tokens_BT.flatten()[found.places_N])


class Twice(NextTokens):
    """Has every target twice."""

    def targets(self, batch: Batch) -> Targets:
        found = super().targets(batch)
        return Targets(
            found.places_N.repeat_interleave(2),
            found.labels_N.repeat_interleave(2),
            found.sequences_N.repeat_interleave(2),
            2 * found.counts_B,
        )


class Nothing(NextTokens):
    """Has no targets."""

    def targets(self, batch: Batch) -> Targets:
        return NextTokens(first=1000).targets(batch)


class Neighbourly(NextTokens):
    """Weighs by the longest of the batch."""

    def targets(self, batch: Batch) -> Targets:
        found = super().targets(batch)
        weights_N = torch.full(found.places_N.shape, 1 / batch.shape[1], dtype=torch.float64)
        return replace(found, weights_N=weights_N)


class Weighted:
    """Weighs all targets alike."""

    def __init__(self, weight: float) -> None:
        self._weight = weight

    def targets(self, batch: Batch) -> Targets:
        found = NextTokens().targets(batch)
        weights_N = torch.full(found.places_N.shape, self._weight, dtype=torch.float64)
        return replace(found, weights_N=weights_N)


@pytest.mark.parametrize(
    ("objective", "test"),
    [
        (Shuffled(), "test_labels_are_the_tokens_that_are_predicted_there"),
        (Itself(), "test_labels_are_the_tokens_that_are_predicted_there"),
        (Twice(), "test_labels_are_the_tokens_that_are_predicted_there"),
        (Nothing(), "test_labels_are_the_tokens_that_are_predicted_there"),
        (Neighbourly(), "test_a_neighbour_and_padding_change_nothing"),
        (Weighted(0.0), "test_its_weights_are_of_what_is_learnt"),
        (Weighted(-1.0), "test_its_weights_are_of_what_is_learnt"),
        (Weighted(float("nan")), "test_its_weights_are_of_what_is_learnt"),
    ],
)
def test_an_objective_that_is_none_is_found_out(
    objective: Objective, test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = TestNextTokens()
    suite.setup_method()
    getattr(suite, test)()
    monkeypatch.setattr(suite, "objective", lambda: objective)
    with pytest.raises(AssertionError):
        getattr(suite, test)()


def test_those_of_training_have_names() -> None:
    assert set(OBJECTIVES) == set(KINDS)


def averaging(case: Case, batch_tokens: int) -> Replica:
    replica = make_replica(case, batch_tokens)
    numerics = replace(replica.numerics, reduction="mean")
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
            if (index, name) not in found:  # an expert that no token of its batch chose
                assert replica.shapes[name].routed
                found[index, name] = torch.zeros_like(weight)
            assert_same(found[index, name], weight, f"{index}, {name}", 1e-12, scale)


def test_moments_are_those_of_the_mean(case: Case, tmp_path: Path) -> None:
    """Lambda weighs each sequence by one over its targets, once, and A does not change."""
    sequences = token_sequences()
    replica = averaging(case, 20)
    ours = fit_factors(replica, sequences, tmp_path / "mean", labels="data")
    theirs = fit_factors(make_replica(case), sequences, tmp_path / "sum", labels="data")
    gradients = naive.sequence_gradients(replica.model, list(replica.modules), sequences)
    for name, module in ours.by_module().items():
        Q_A, Q_S = module.inputs_basis.dense(), module.outputs_basis.dense()
        squares = [
            (Q_S.T @ D[name] @ Q_A).square() / (len(tokens) - 1)
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
    monkeypatch.setattr(replica_module, "objective_of", lambda *_: Late())
    replica, found = make_replica(case), []
    table_ = table([np.array([1, 2]), np.array([3, 4])])
    (batch,) = replica.batches(table_, {})
    for labels in (own_labels, partial(sampled_labels, 0)):
        quarantine: dict[int, str] = {}
        done = replica.run(batch, labels, lambda *seen: found.append(seen[2]), quarantine)
        assert done is batch
        assert quarantine == {}
    assert all(not rows.grads_BRO.any() for rows in found)
