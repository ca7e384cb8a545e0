"""Experts that some sequences, some batches or all of them do without."""

from __future__ import annotations

from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from cases import CASES, Case, token_sequences
from compare import assert_same
from harness import (
    all_scores,
    bases_of,
    encoded,
    explain_pairs,
    fit_factors,
    make_bank,
    make_replica,
    operator_of,
    plan_factors,
)

from rayinfluence.dataflow.layout import held_out_key
from rayinfluence.dataflow.stages import sample
from rayinfluence.influence.squares import per_length
from rayinfluence.storage.tensors import read_tensors
from rayinfluence.testing.models import VOCABULARY

pytestmark = pytest.mark.runs

MIXTRAL = next(case for case in CASES if case.name == "mixtral")
#: One expert alone: most batches of a single sequence do without it.
ONE = Case("one expert", MIXTRAL.model, ("model.layers.1.mlp.experts.2.*",))


def many(n: int) -> list[np.ndarray]:
    generator = np.random.default_rng(4)
    return [generator.integers(0, VOCABULARY, 4) for _ in range(n)]


def test_the_probe_set_is_scored_by_experts_that_parts_of_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<D_q / (Lambda + lambda), D_z>, of gradients by autograd; zero where either chose others."""
    monkeypatch.setattr(sample, "_LOWEST_LIMIT", 0.0)
    replica, sequences = make_replica(MIXTRAL, batch_tokens=1), many(40)
    more = {"lanes": 4, "labels": "data", "error_bound": 1e-9}
    _, plan = plan_factors(replica, sequences, tmp_path / "plan", **more)
    factors = fit_factors(replica, sequences, tmp_path / "fit", **more)
    assert len(factors.manifest["rounds"]) > 2
    assert factors.error is not None
    last = read_tensors(factors.store, held_out_key(len(plan.rounds) - 1))[0]["scores"]
    held = [sequences[i] for i in plan.held_out]
    held = held[::5] + [one for i, one in enumerate(held) if i % 5]
    n_queries = len(held) - last.shape[1]
    gradients = naive.sequence_gradients(replica.model, list(replica.modules), held)
    expected = torch.zeros_like(last)
    for name, (Q_A, Q_S) in bases_of(operators := operator_of(factors)).items():
        moments = operators[name].factors.moments
        weight = 1 / (moments + 0.1 * moments.mean())
        rotated = torch.stack([Q_S.T @ one[name] @ Q_A for one in gradients])
        queries, others = rotated[:n_queries], rotated[n_queries:]
        expected += torch.einsum("qoj,oj,zoj->qz", queries, weight, others)
    assert_same(last, expected, tolerance=1e-9)


@pytest.mark.parametrize("batch_tokens", [1, 20])
@pytest.mark.parametrize("method", ["ekfac", "kfac", "gradient_product", "cosine"])
def test_sequences_that_did_not_choose_an_expert_score_nothing_by_it(
    method: str, batch_tokens: int, tmp_path: Path
) -> None:
    replica, sequences = make_replica(ONE, batch_tokens), token_sequences()
    factors = fit_factors(replica, sequences, tmp_path)
    queries = [encoded(tokens) for tokens in token_sequences(1, (6, 8, 2))]
    bank = make_bank(replica, factors, queries, tmp_path, method)
    # A score of zero is among neither proponents nor opponents.
    scores = all_scores(replica, bank, sequences).nan_to_num(0.0)
    names = list(replica.modules)
    of_sequences = naive.sequence_gradients(replica.model, names, sequences)
    of_queries = naive.sequence_gradients(
        replica.model, names, [q.answers[0].tokens for q in queries]
    )
    norms = [
        np.array([sum(float(D.norm()) ** 2 for D in one.values()) for one in some])
        for some in (of_sequences, of_queries)
    ]
    assert 0 < np.count_nonzero(norms[0]) < len(sequences)
    expected = torch.zeros_like(scores)
    operator = operator_of(factors)
    for name in names:
        one = operator[name].factors
        moments = one.moments
        if method == "kfac":
            ratio = naive.rows_seen(replica.model, names, sequences)[name] / len(sequences)
            moments = ratio * torch.outer(one.outputs_eigenvalues, one.inputs_eigenvalues)
        Q_A, Q_S = bases_of(operator)[name]
        dense = naive.dense_operator(Q_A, Q_S, moments, float(0.1 * moments.mean()))
        for q, query in enumerate(of_queries):
            P = naive.solve(dense, query[name]) if method in ("ekfac", "kfac") else query[name]
            expected[:, q] += torch.stack([(P * one[name]).sum() for one in of_sequences])
    if method == "cosine":
        expected *= torch.from_numpy(np.outer(*map(per_length, norms)))
    assert_same(scores, expected, tolerance=1e-9)
    pairs = [(query, z) for query in range(len(queries)) for z in range(len(sequences))]
    if method != "cosine":
        for (query, z), found in explain_pairs(replica, bank, sequences, pairs).items():
            scale = float(expected.abs().max())
            assert_same(found.score, expected[z, query], "score", 1e-9, scale)
            assert_same(found.token_scores.sum(), found.score, "tokens", 1e-9, scale)


def test_lambda_is_a_mean_over_all_sequences_and_covariances_over_routed_tokens(
    tmp_path: Path,
) -> None:
    """So sequences that do not choose an expert shrink its Lambda, and nothing else."""
    replica, sequences = make_replica(ONE, batch_tokens=1), token_sequences()
    names = list(replica.modules)
    chose = [any(naive.rows_seen(replica.model, names, [one]).values()) for one in sequences]
    those = [one for one, did in zip(sequences, chose, strict=True) if did]
    assert len(those) < len(sequences)
    alone = fit_factors(replica, those, tmp_path / "alone", labels="data").by_module()
    beside = fit_factors(replica, sequences, tmp_path / "beside", labels="data").by_module()
    ratio = len(those) / len(sequences)
    for name, module in alone.items():
        assert_same(beside[name].inputs_eigenvalues, module.inputs_eigenvalues, f"A of {name}")
        assert_same(beside[name].outputs_eigenvalues, module.outputs_eigenvalues, f"S of {name}")
        assert_same(beside[name].moments.sum(), ratio * module.moments.sum(), f"Lambda of {name}")
