"""The influence of sequences on themselves, against autograd and dense solves."""

from __future__ import annotations

from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from compare import assert_same
from harness import (
    Fitted,
    bases_of,
    encoded,
    explain_pairs,
    make_bank,
    operands,
    table,
)
from torch import Tensor

from rayinfluence.dataflow.compute.rescoring import Asked, Rescored, rescore
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.influence.bank import QueryBank


def bank_of(fitted: Fitted, damping: float | None) -> QueryBank:
    return operands(fitted.factors, Path("unused"), "self_influence", damping).itself(
        fitted.replica
    )


def naive_scores(fitted: Fitted, damping: float | None) -> dict[str, Tensor]:
    """<D_z, (G + lambda I)^-1 D_z> [N] by module: autograd, and a dense solve."""
    sequences = naive.sequence_gradients(fitted.replica.model, fitted.names, fitted.sequences)
    scores = {}
    for name, (Q_A, Q_S) in bases_of(fitted.operator).items():
        moments = fitted.operator[name].factors.moments
        value = float(0.1 * moments.mean()) if damping is None else damping
        dense = naive.dense_operator(Q_A, Q_S, moments, value)
        scores[name] = torch.stack(
            [(naive.solve(dense, D[name]) * D[name]).sum() for D in sequences]
        )
    return scores


def again(fitted: Fitted, bank: QueryBank) -> Rescored:
    wanted_N1 = np.ones((len(fitted.sequences), 1), dtype=np.bool_)
    rows = table(fitted.sequences)
    (found,) = rescore(fitted.replica, [Asked(bank, None, wanted_N1, wanted_N1)], rows)
    return found


@pytest.mark.parametrize("damping", [None, 0.05])
def test_scores_equal_autograd_and_a_dense_solve_for_each_sequence(
    fitted: Fitted, damping: float | None
) -> None:
    bank, expected = bank_of(fitted, damping), naive_scores(fitted, damping)
    (scored,) = score_split(fitted.replica, [bank], table(fitted.sequences))
    scores_N = torch.from_numpy(scored.scores_NQ[np.argsort(scored.ids_N), 0])
    assert_same(scores_N, torch.stack(list(expected.values())).sum(dim=0), tolerance=1e-9)
    assert (scores_N > 0).all()
    found = again(fitted, bank)
    for place, name in enumerate(fitted.names):
        layers_N = torch.from_numpy(found.layer_scores_PM[:, place])
        assert_same(layers_N, expected[name], name, 1e-9)


def test_tokens_are_those_of_a_query_that_is_the_sequence(fitted: Fitted) -> None:
    """The way over queries knows nothing of sequences by themselves."""
    found = again(fitted, bank_of(fitted, None))
    queries = [encoded(tokens) for tokens in fitted.sequences]
    bank = make_bank(fitted.replica, fitted.factors, queries, fitted.folder)
    pairs = [(place, place) for place in range(len(queries))]
    explained = explain_pairs(fitted.replica, bank, fitted.sequences, pairs)
    for place, one in enumerate(explained[pair] for pair in pairs):
        assert_same(found.token_scores[place], one.token_scores, f"tokens of {place}", 1e-9)
        assert_same(found.layer_scores_PM[place].sum(), one.score, f"score of {place}", 1e-9)


def test_a_bank_beside_it_changes_no_bit(fitted: Fitted) -> None:
    """Nor does it change theirs."""
    ours = bank_of(fitted, None)
    theirs = make_bank(fitted.replica, fitted.factors, fitted.queries, fitted.folder, rank=3)
    rows = table(fitted.sequences)
    together = score_split(fitted.replica, [theirs, ours], rows)
    for bank, one in zip((theirs, ours), together, strict=True):
        (alone,) = score_split(fitted.replica, [bank], rows)
        assert np.array_equal(alone.scores_NQ, one.scores_NQ)
