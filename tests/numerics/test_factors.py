"""A, S, Lambda and scores against explicit loops; neither padding nor batching matters."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from cases import MLP, Case, token_sequences
from compare import assert_same
from harness import (
    SEED,
    Fitted,
    all_scores,
    bases_of,
    basis_tensors,
    encoded,
    fit_factors,
    make_bank,
    make_replica,
    operator_of,
    table,
)

from rayinfluence.curvature.products import accumulation_dtype
from rayinfluence.curvature.sums import GramSums, tree_sum
from rayinfluence.dataflow.compute.folding import (
    Bases,
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.compute.grouping import SplitGroups
from rayinfluence.dataflow.compute.quarantine import Bad
from rayinfluence.dataflow.compute.scoring import score_split


@pytest.mark.parametrize("labels", ["sampled", "data"])
@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])  # each alone, some padding, one batch
def test_factors_equal_explicit_loops(
    case: Case, labels: str, batch_tokens: int, tmp_path: Path
) -> None:
    replica, sequences = make_replica(case, batch_tokens), token_sequences()
    names = list(replica.modules)
    factors = fit_factors(replica, sequences, tmp_path, labels=labels)
    operator = operator_of(factors)
    drawn = (
        naive.sampled_labels(replica.model, sequences, range(len(sequences)), SEED)
        if labels == "sampled"
        else [tokens[1:] for tokens in sequences]
    )
    assert factors.n_sequences == len(sequences)
    assert factors.n_tokens == sum(len(tokens) for tokens in sequences)
    n_rows = naive.rows_seen(replica.model, names, sequences)
    assert factors.n_routed == {n: n_rows[n] for n in names if replica.shapes[n].routed}

    for name, (A, S) in naive.covariances(replica.model, names, sequences, drawn).items():
        module = operator[name].factors
        Q_A, Q_S = module.inputs_basis.dense(), module.outputs_basis.dense()
        assert_same(Q_A @ torch.diag(module.inputs_eigenvalues) @ Q_A.T, A, f"A of {name}")
        assert_same(Q_S @ torch.diag(module.outputs_eigenvalues) @ Q_S.T, S, f"S of {name}")
        assert_same(Q_A.T @ Q_A, torch.eye(len(A), dtype=A.dtype), f"Q_A of {name}")
        assert_same(Q_S.T @ Q_S, torch.eye(len(S), dtype=S.dtype), f"Q_S of {name}")

    per_sequence = naive.sequence_gradients(replica.model, names, sequences, drawn)
    for name, Lambda in naive.moments(per_sequence, bases_of(operator)).items():
        assert_same(operator[name].factors.moments, Lambda, f"Lambda of {name}")


def test_scores_do_not_depend_on_the_batches(case: Case, tmp_path: Path) -> None:
    """Neither those of the fit nor those of the scan, by any method."""
    sequences = token_sequences()
    queries = [encoded(tokens, 2) for tokens in token_sequences(1, (6, 4))]
    expected: dict[str, torch.Tensor] = {}
    for batch_tokens in (1, 10, 21, 1000):
        replica, folder = make_replica(case, batch_tokens), tmp_path / str(batch_tokens)
        factors = fit_factors(replica, sequences, folder)
        for method in ("ekfac", "kfac", "gradient_product"):
            bank = make_bank(replica, factors, queries, folder, method)
            scores = all_scores(replica, bank, sequences)
            what = f"{method}, batches of {batch_tokens} tokens"
            assert_same(scores, expected.setdefault(method, scores), what, 1e-9)


def test_a_sequence_scores_the_same_alone_and_in_company(fitted: Fitted) -> None:
    bank = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder)
    together = all_scores(fitted.replica, bank, fitted.sequences)
    reversed_order = all_scores(fitted.replica, bank, fitted.sequences[::-1])
    assert_same(reversed_order, together.flip(0))
    for index, tokens in enumerate(fitted.sequences):
        alone = all_scores(fitted.replica, bank, [tokens], [index])
        assert_same(alone, together[index : index + 1], f"sequence {index}")


def test_lanes_do_not_matter_beyond_rounding(fitted: Fitted, tmp_path: Path) -> None:
    one = fit_factors(fitted.replica, fitted.sequences, tmp_path, lanes=1)
    operator = operator_of(one)
    for name in fitted.names:
        V = torch.ones_like(fitted.operator[name].factors.moments)
        assert_same(operator[name].inverse() @ V, fitted.operator[name].inverse() @ V, name, 1e-9)


def test_a_thousand_bfloat16_batches_do_not_drift() -> None:
    """In bfloat16 the sums would have stopped growing long before."""
    generator = torch.Generator().manual_seed(0)
    inputs = (1 + torch.randn(2, 4, 3, generator=generator)).bfloat16()
    grads = torch.randn(2, 4, 5, generator=generator).bfloat16()
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    dtype = accumulation_dtype(torch.bfloat16)
    inputs_sums = GramSums.zeros(3, 1, True, dtype, torch.device("cpu"))
    grads_sums = GramSums.zeros(5, 1, False, dtype, torch.device("cpu"))
    n_batches = 2000
    for _ in range(n_batches):
        inputs_sums.add(inputs[mask])
        grads_sums.add(grads[mask])
    a, g = inputs[mask].double(), grads[mask].double()
    found = inputs_sums.to_tensors()
    assert_same(found["0"], n_batches * a.T @ a, "a a^T", 1e-4)
    assert_same(found["sum"], n_batches * a.sum(dim=0), "a", 1e-4)
    assert_same(grads_sums.to_tensors()["0"], n_batches * g.T @ g, "g g^T", 1e-4)
    assert float(found["rows"]) == n_batches * 6


def test_the_tree_sum_is_exact_where_float32_is_not() -> None:
    parts = [{"x": torch.tensor([2.0**24, 1.0])}, None, *[{"x": torch.ones(2)}] * 5]
    assert tree_sum(parts)["x"].tolist() == [2.0**24 + 5, 6.0]
    assert tree_sum([None, None]) == {}


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 11, 64])
def test_the_tree_is_of_neighbours_and_few_sums_wait(n: int) -> None:
    values = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def parts() -> Iterator[dict[str, torch.Tensor]]:
        nonlocal most
        for value in values:
            part = value.clone()
            alive.add(part)
            most = max(most, len(alive))
            yield {"x": part}

    expected = list(values)
    while len(expected) > 1:
        expected = [sum(expected[i : i + 2][1:], expected[i]) for i in range(0, len(expected), 2)]
    assert tree_sum(parts())["x"] == expected[0]
    assert most <= 3


def test_a_sequence_that_is_not_finite_leaves_no_trace(tmp_path: Path) -> None:
    """Its inputs are infinite and its log-probability is not; sums and scores are of the rest."""
    replica, sequences = make_replica(MLP), token_sequences()
    good = table(sequences)
    factors = fit_factors(replica, sequences, tmp_path)
    bank = make_bank(replica, factors, [encoded(sequences[0])], tmp_path)
    used = {int(token) for tokens in sequences for token in tokens}
    unused = next(token for token in range(48) if token not in used)
    embedding = replica.model.embed.weight.data[unused].zero_()
    embedding[0] = torch.inf
    poisoned = table([*sequences, np.array([unused, 3])], range(8))

    labels, bases = fitting_labels("sampled", SEED), Bases.on(replica, basis_tensors(factors))
    folds = [
        lambda rows: fold_covariance(replica, LaneRows(lambda n: [rows][n:], labels), 1),
        lambda rows: fold_moments(replica, LaneRows(lambda n: [rows][n:], labels), bases),
    ]
    for fold in folds:
        clean, found = fold(good), fold(poisoned)
        assert found.quarantine == {7: "its gradient is not finite"}
        assert (found.n_sequences, found.n_tokens) == (clean.n_sequences, clean.n_tokens)
        for name, tensor in clean.tensors.items():
            assert torch.equal(found.tensors[name], tensor), name

    (clean,), (found,) = (
        [one.partial(SplitGroups(rows), 7) for one in score_split(replica, [bank], rows)]
        for rows in (good, poisoned)
    )
    assert found.quarantine == {7: Bad("its influence is not finite")}
    assert (found.n_sequences, found.n_tokens) == (clean.n_sequences, clean.n_tokens)
    for ours, theirs in ((found.proponents, clean.proponents), (found.opponents, clean.opponents)):
        assert ours.ids_QK.tolist() == theirs.ids_QK.tolist()
        kept = torch.as_tensor(ours.of_query(0)[0])
        assert_same(kept, torch.as_tensor(theirs.of_query(0)[0]))
