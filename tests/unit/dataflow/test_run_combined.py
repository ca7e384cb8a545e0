"""Together in one run: a masked loss, forms of queries, methods, token influences, probes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rayinfluence import probe
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import ConfigError
from rayinfluence.report import render, render_page
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

QUERIES: list[dict[str, Any]] = [
    {"query_id": "plain", "prompt": "w1 w2", "completion": " w3 w4"},
    {"query_id": "than", "prompt": "w1 w2", "completion": " w3", "rather_than": " w9"},
    {"query_id": "mean", "prompt": "w1", "completion": " w3 w4", "reduction": "mean"},
    {
        "query_id": "set",
        "set": [
            {"prompt": "w1", "completion": " w2"},
            {"prompt": "w5", "completion": " w6", "weight": 0.5},
        ],
    },
]
METHODS = ["ekfac", "diagonal", "gradient_product", "bm25", "self_influence"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Results]]:
    folder = tmp_path_factory.mktemp("combined")
    config = tiny_run(
        folder,
        n_documents=30,
        objective={"loss": "completion"},
        corpus={"prompt_column": "prompt"},
        scan={"methods": METHODS, "token_influences": 1, "scores": "dense"},
    )
    rows = [
        {"prompt": f"w{i % 7} w{i % 5}", "text": f" w{i % 11} w{i % 3 + 1}", "source": "ab"[i % 2]}
        for i in range(30)
    ]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, QUERIES)) + "\n")
    with Run(config) as run:
        return folder, run.all()


def test_each_method_has_the_queries_that_it_asks(
    finished: tuple[Path, dict[str, Results]],
) -> None:
    """A set has no completion of its own, and is not taken for the sequences themselves."""
    _, results = finished
    asked = [query["query_id"] for query in QUERIES]
    for method in METHODS[:-1]:
        assert list(results[method].queries) == asked
        assert results[method].proponents("set")
    assert list(results["self_influence"].queries) == ["self_influence"]
    assert results["self_influence"].proponents("self_influence")


def test_changes_are_predicted_where_what_is_asked_for_is_a_log_probability(
    finished: tuple[Path, dict[str, Results]],
) -> None:
    _, results = finished
    for query, predicted in {"plain": True, "than": True, "mean": False, "set": False}.items():
        first = results["ekfac"].proponents(query, 1)[0]
        assert (first.delta_nats is not None) is predicted
        assert (first.output_token_influences is not None) is True
    itself = results["self_influence"].proponents("self_influence", 1)[0]
    assert itself.delta_nats == itself.score / 30


def test_pages_and_terminals_show_all_of_it(finished: tuple[Path, dict[str, Results]]) -> None:
    _, results = finished
    page = render_page(results)
    console = Console(record=True, width=100, file=io.StringIO())
    for one in results.values():
        render(one, console)
    shown = console.export_text()
    for said in ("rather than", "each sequence by itself", "mean log-probability"):
        assert said in page
        assert said in shown
    assert "2 completions" in page
    assert "0.5 times" in shown


@pytest.mark.parametrize("method", METHODS[:-1])
def test_a_text_of_no_corpus_is_scored_by_each_of_them(
    finished: tuple[Path, dict[str, Results]], method: str
) -> None:
    folder, results = finished
    found = probe(str(folder / "run"), ["w1 w2 w3", "w5 w6"], method=method)
    assert list(found.queries) == [query["query_id"] for query in QUERIES]
    for query in found.queries:
        for score in found.scores[query]:
            assert sum(score.token_scores) == pytest.approx(score.score, rel=1e-4, abs=1e-6)
            predicted = query in ("plain", "than") and results[method].meaning.predicts
            assert (score.delta_nats is not None) is predicted


def test_a_text_is_not_scored_for_itself(finished: tuple[Path, dict[str, Results]]) -> None:
    folder, _ = finished
    with pytest.raises(ConfigError, match="scores each sequence for itself"):
        probe(str(folder / "run"), ["w1 w2"], method="self_influence")
