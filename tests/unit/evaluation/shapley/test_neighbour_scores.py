"""Values of sequences by nearest hidden states, of a whole tiny corpus, and in an evaluation."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.splits import read_split
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.display.as_json import json_text
from rayinfluence.evaluation.contenders import contenders
from rayinfluence.evaluation.evaluate import evaluate
from rayinfluence.evaluation.shapley import neighbour_job
from rayinfluence.evaluation.shapley.neighbour_job import neighbour_scores, who_votes
from rayinfluence.evaluation.shapley.neighbours import neighbour_values
from rayinfluence.evaluation.shapley.valuing import value_groups
from rayinfluence.storage.results.valued import VALUED
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs
K = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return tiny_run(tmp_path_factory.mktemp("neighbours"), 30, dtype="float64")


def begun(run: Run) -> Run:
    run.begin(needs_queries=True)
    run.tokenize()
    return run


def sequences(run: Run) -> dict[int, list[int]]:
    """Tokens of all sequences by their ids."""
    found: dict[int, list[int]] = {}
    for split in run.corpus.plan(run.numerics.split_tokens):
        table = read_split(run.corpus_store, split)
        tokens = [one.tolist() for one in sequences_of(table)]
        found |= dict(zip(table["sequence_id"].to_pylist(), tokens, strict=True))
    return found


def test_they_are_of_votes_of_all_places_of_the_corpus(config: RunConfig) -> None:
    """Hidden states by the model itself, and the recursion over all of them at once."""
    with Run(config, ProgressLog(quiet=True)) as run:
        begun(run)
        queries = run.queries
        there = sequences(run)
        ids_N = np.array(sorted(there))
        found_NQ = neighbour_scores(run, queries, ids_N, K)

        def states(tokens: list[int]) -> torch.Tensor:
            with torch.no_grad():
                out = run.replica.model(input_ids=torch.tensor([tokens]), output_hidden_states=True)
            return out.hidden_states[-1][0]

        points = torch.cat([states(there[one])[:-1] for one in ids_N])
        owners = np.repeat(np.arange(len(ids_N)), [len(there[one]) - 1 for one in ids_N])
        labels = np.concatenate([there[one][1:] for one in ids_N])
        for q, query in enumerate(queries):
            [answer] = query.answers
            own = states(list(answer.tokens))[answer.first_target - 1 : -1]
            expected_N, votes = np.zeros(len(ids_N)), []
            for state, token in zip(own, answer.completion, strict=True):
                distances = (points - state).norm(dim=1).float().numpy()  # as they are kept
                values = neighbour_values(distances, labels == token, K)
                expected_N += np.bincount(owners, values, len(ids_N)) / len(own)
                votes.append((labels[np.argsort(distances)[:K]] == token).mean())
            assert found_NQ[:, q] == pytest.approx(expected_N, abs=1e-9)
            assert found_NQ[:, q].sum() == pytest.approx(np.mean(votes))


def test_distances_that_are_there_are_not_measured_again(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run(config, ProgressLog(quiet=True)) as run:
        begun(run)
        ids_N = np.array(sorted(sequences(run)))
        once = neighbour_scores(run, run.queries, ids_N, K)
    monkeypatch.setattr(neighbour_job.NeighbourJob, "run", None)
    with Run(config, ProgressLog(quiet=True)) as run:
        begun(run)
        assert np.array_equal(neighbour_scores(run, run.queries, ids_N, K), once)
        assert not np.array_equal(neighbour_scores(run, run.queries, ids_N, 200), once)


def test_more_distances_than_are_kept_are_refused(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbour_job, "_MOST_BYTES", 1000)
    with Run(config, ProgressLog(quiet=True)) as run:
        begun(run)
        with pytest.raises(Exception, match=r"evaluation\.shapley\.neighbours: .* Ask fewer"):
            neighbour_scores(run, run.queries, np.zeros(0, np.int64), K)


def test_an_evaluation_has_them_and_values_of_coalitions_beside_methods(tmp_path: Path) -> None:
    """Beta values of the last coalition alone agree wholly with leaving each group out."""
    options = {"start": str(tmp_path / "start"), "epochs": 1, "batch": 8}
    shapley: dict[str, Any] = {"key": "source", "neighbours": K, "values": ["shapley", "beta"]}
    config = tiny_run(
        tmp_path,
        30,
        evaluation={
            "options": options,
            "groups": {"key": "source"},
            "shapley": {**shapley, "alpha": 1, "beta": 1e9},
        },
    )
    shutil.move(tmp_path / "model", tmp_path / "start")
    found = value_groups(config, ProgressLog(quiet=True))
    Store(config.run).write(VALUED, json_text(found.to_json()).encode())
    told = evaluate(config, contenders(config), ProgressLog(quiet=True))
    by_name = {one.name: one for one in told.methods}
    assert list(by_name)[-4:] == ["knn_shapley", "random", "shapley", "beta(1, 1e+09)"]
    assert by_name["knn_shapley"].needs == ("hidden states",)
    assert by_name["knn_shapley"].groups is not None
    last = by_name["beta(1, 1e+09)"]
    assert last.needs == ("trainings",)
    assert last.groups is not None
    assert last.groups.mean == pytest.approx(1)
    assert last.lds == {}
    assert last.recall is None
    assert any("that they agree is no prediction" in one for one in told.notes)


def test_more_neighbours_than_places_count_tokens_and_say_so(config: RunConfig) -> None:
    console = Console(file=io.StringIO(), width=1000)
    with Run(config, ProgressLog(console)) as run:
        begun(run)
        there = sequences(run)
        ids_N = np.array(sorted(there))
        n_places = sum(len(one) - 1 for one in there.values())
        found_NQ = neighbour_scores(run, run.queries, ids_N, n_places)
        said = f"{n_places:,} vote, and the corpus has {n_places:,} places: all of them do"
        assert said in console.file.getvalue()
        for q, query in enumerate(run.queries):
            [answer] = query.answers
            counts_N = [
                np.mean([there[one][1:].count(token) for token in answer.completion])
                for one in ids_N
            ]
            assert found_NQ[:, q] == pytest.approx(np.array(counts_N) / n_places, abs=1e-12)


def test_of_fewer_nothing_is_said() -> None:
    assert who_votes(9, 10) is None
    assert who_votes(10, 10) is not None
