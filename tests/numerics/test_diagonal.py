"""Influence by the diagonal of the Fisher matrix, against autograd's gradients, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import naive
import numpy as np
import pytest
import torch
from cases import Case, token_sequences
from compare import assert_same
from harness import (
    SEED,
    all_scores,
    encoded,
    explain_pairs,
    make_bank,
    make_replica,
    table,
    write_corpus,
)
from rich.console import Console
from torch import Tensor

from rayinfluence.config import FitConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.runners.inline import InlineRunner
from rayinfluence.dataflow.stages.factors import Factors
from rayinfluence.dataflow.stages.fit import fit
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.sample import plan_fit
from rayinfluence.storage.store import Store


@dataclass(frozen=True)
class Diagonal:
    """A case with its diagonal fitted, and what autograd says of its sequences."""

    replica: Replica
    sequences: list[np.ndarray]
    queries: list[EncodedQuery]
    factors: Factors
    folder: Path


def fitted_diagonal(replica: Replica, folder: Path, labels: str) -> Factors:
    sequences = token_sequences()
    corpus = write_corpus(folder / "corpus", sequences)
    config = FitConfig(sequences=10**6, labels=labels, lanes=3, error_bound=None, blocks=2)
    shapes = replica.shapes
    plan = plan_fit(config, corpus, 1, replica.numerics, "model", shapes, "diagonal")
    store, log = Store(str(folder / "factors")), ProgressLog(Console(quiet=True))
    return fit(InlineRunner(lambda: replica), corpus.store, store, plan, shapes, log)


@pytest.fixture(scope="session", params=["sampled", "data"])
def diagonal(
    case: Case, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Diagonal:
    replica, folder = make_replica(case), tmp_path_factory.mktemp(f"diagonal-{case.name}")
    factors = fitted_diagonal(replica, folder, request.param)
    queries = [
        encoded(tokens, first)
        for tokens, first in zip(token_sequences(1, (6, 8, 4)), (1, 5, 3), strict=True)
    ]
    return Diagonal(replica, token_sequences(), queries, factors, folder)


def expected_moments(diagonal: Diagonal) -> dict[str, Tensor]:
    """The mean of D^2, entry by entry, of every sequence's own gradient."""
    model, names = diagonal.replica.model, list(diagonal.replica.modules)
    sequences, ids = diagonal.sequences, range(len(diagonal.sequences))
    sampled = diagonal.factors.manifest["parts"]["fit"]["labels"] == "sampled"
    labels = naive.sampled_labels(model, sequences, ids, SEED) if sampled else None
    gradients = naive.sequence_gradients(model, names, sequences, labels)
    return {name: sum(D[name] ** 2 for D in gradients) / len(gradients) for name in names}


def test_moments_are_means_of_squared_gradients(diagonal: Diagonal) -> None:
    expected = expected_moments(diagonal)
    for name, module in diagonal.factors.by_module().items():
        assert_same(module.moments, expected[name], name, 1e-9)
        assert module.inputs_eigenvalues is module.outputs_eigenvalues is None
        for basis in (module.inputs_basis, module.outputs_basis):
            assert torch.equal(basis.dense(), torch.eye(basis.width, dtype=torch.float64))


def test_no_covariance_and_no_eigenbasis_is_made(diagonal: Diagonal) -> None:
    keys = diagonal.factors.store.list()
    assert {key.split("/")[0] for key in keys} <= {"moments", "modules", "manifest.json"}
    assert diagonal.factors.manifest["singular"] == {}


@pytest.mark.parametrize("damping", [None, 0.05])
def test_scores_are_quotients_of_autograds_gradients(
    diagonal: Diagonal, damping: float | None
) -> None:
    """<grad f_q / (diag F + lambda), grad log p(z)>, by layer too."""
    replica = diagonal.replica
    names, twin = list(replica.modules), naive.trainable(replica.model)
    asked = [
        naive.gradients(
            twin,
            names,
            naive.log_probability(
                twin, list(query.answers[0].tokens), first=query.answers[0].first_target
            ),
        )
        for query in diagonal.queries
    ]
    sequences = naive.sequence_gradients(replica.model, names, diagonal.sequences)
    expected = {}
    for name, moments in expected_moments(diagonal).items():
        value = 0.1 * moments.mean() if damping is None else damping
        solved = [query[name] / (moments + value) for query in asked]
        expected[name] = torch.stack(
            [torch.stack([(P * D[name]).sum() for P in solved]) for D in sequences]
        )
    bank = make_bank(
        replica, diagonal.factors, diagonal.queries, diagonal.folder, "diagonal", None, damping
    )
    found = all_scores(replica, bank, diagonal.sequences)
    assert_same(found, torch.stack(list(expected.values())).sum(dim=0), tolerance=1e-9)
    pairs = [(0, 2), (1, 4), (2, 0)]
    for (query, place), one in explain_pairs(replica, bank, diagonal.sequences, pairs).items():
        for name, score in one.layer_scores.items():
            assert_same(score, expected[name][place, query], f"{name} of {place}", 1e-9)


def test_padding_and_company_change_nothing(diagonal: Diagonal) -> None:
    """A bank at full rank scores each sequence alone as it does all of them."""
    bank = make_bank(
        diagonal.replica, diagonal.factors, diagonal.queries, diagonal.folder, "diagonal", 1000
    )
    together = all_scores(diagonal.replica, bank, diagonal.sequences)
    for place, tokens in enumerate(diagonal.sequences):
        assert len(table([tokens])) == 1
        alone = all_scores(diagonal.replica, bank, [tokens])
        assert_same(alone[0], together[place], f"sequence {place}", 1e-9)
