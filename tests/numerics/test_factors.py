"""A, S, Lambda and scores against explicit loops; neither padding nor batching matters."""

from __future__ import annotations

from pathlib import Path

import naive
import pytest
import torch
from cases import Case, token_sequences
from compare import assert_same
from harness import (
    SEED,
    Fitted,
    all_scores,
    bases_of,
    encoded,
    fit_factors,
    make_bank,
    make_replica,
)

from rayinfluence.curvature.ekfac import EKFAC


@pytest.mark.parametrize("labels", ["sampled", "data"])
@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])  # each alone, some padding, one batch
def test_factors_equal_explicit_loops(
    case: Case, labels: str, batch_tokens: int, tmp_path: Path
) -> None:
    replica, sequences = make_replica(case, batch_tokens), token_sequences()
    names = list(replica.modules)
    factors = fit_factors(replica, sequences, tmp_path, labels)
    operator = EKFAC.from_tensors(factors.tensors())
    drawn = (
        naive.sampled_labels(replica.model, sequences, range(len(sequences)), SEED)
        if labels == "sampled"
        else [tokens[1:] for tokens in sequences]
    )
    assert factors.n_sequences == len(sequences)
    assert factors.n_tokens == sum(len(tokens) for tokens in sequences)

    for name, (A, S) in naive.covariances(replica.model, names, sequences, drawn).items():
        module = operator.factors[name]
        Q_A, Q_S = module.inputs_basis, module.outputs_basis
        assert_same(Q_A @ torch.diag(module.inputs_eigenvalues) @ Q_A.T, A, f"A of {name}")
        assert_same(Q_S @ torch.diag(module.outputs_eigenvalues) @ Q_S.T, S, f"S of {name}")
        assert_same(Q_A.T @ Q_A, torch.eye(len(A), dtype=A.dtype), f"Q_A of {name}")
        assert_same(Q_S.T @ Q_S, torch.eye(len(S), dtype=S.dtype), f"Q_S of {name}")

    per_sequence = naive.sequence_gradients(replica.model, names, sequences, drawn)
    for name, Lambda in naive.moments(per_sequence, bases_of(operator)).items():
        assert_same(operator.factors[name].moments, Lambda, f"Lambda of {name}")


@pytest.mark.parametrize("method", ["ekfac", "kfac", "gradient_product"])
def test_scores_do_not_depend_on_the_batches(case: Case, method: str, tmp_path: Path) -> None:
    sequences = token_sequences()
    queries = [encoded(tokens, 2) for tokens in token_sequences(1, (6, 4))]
    found = []
    for batch_tokens in (1, 10, 21, 1000):
        replica, folder = make_replica(case, batch_tokens), tmp_path / str(batch_tokens)
        factors = fit_factors(replica, sequences, folder)
        bank = make_bank(replica, factors, queries, folder, method)
        found.append(all_scores(replica, bank, sequences))
    for scores in found[1:]:
        assert_same(scores, found[0], tolerance=1e-9)


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
    operator = EKFAC.from_tensors(one.tensors())
    for name in fitted.names:
        V = torch.ones_like(fitted.operator.factors[name].moments)
        assert_same(operator.solve(name, V), fitted.operator.solve(name, V), name, 1e-9)
