"""A run in which each sequence is its own query: without queries, and beside other methods."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from whole_runs import Contents, Execute, add_query, partials, results_of

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.status import status
from rayinfluence.errors import ConfigError, QueryError
from rayinfluence.report import render, render_page
from rayinfluence.storage.results import ITSELF_ID, Results
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

SCAN = {"methods": [ITSELF_ID], "scores": "dense", "token_scores": "all"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Results]:
    """A run without queries; nobody may change it."""
    config = tiny_run(tmp_path_factory.mktemp("alone"), scan=SCAN, queries=None)
    with Run(config) as run:
        return config, run.all()[ITSELF_ID]


def test_it_needs_no_queries_and_has_one_row_for_all_sequences(
    alone: tuple[RunConfig, Results],
) -> None:
    _, results = alone
    assert list(results.queries) == [ITSELF_ID]
    query = results.queries[ITSELF_ID]
    unknown = set(query) - {"query_id", "digest", "metadata"}
    assert all(query[key] is None for key in unknown)
    assert results.opponents(ITSELF_ID) == []
    found = results.proponents(ITSELF_ID)
    assert len(found) == 5
    n = results.manifest["n_training_sequences"]
    for one in found:
        assert one.score > 0
        assert one.delta_nats == pytest.approx(one.score / n)
        assert one.beyond_linear is (one.delta_nats > 0.5)
        assert one.carrier_in_completion is None
        assert sum(one.layer_scores.values()) == pytest.approx(one.score, rel=1e-4)
        assert sum(one.token_scores or ()) == pytest.approx(one.score, rel=1e-4)
        assert not one.suspect


def test_where_training_maximised_a_mean_a_score_is_of_it_and_no_change_in_nats(
    tmp_path: Path, alone: tuple[RunConfig, Results]
) -> None:
    config = tiny_run(tmp_path, scan=SCAN, queries=None, objective={"reduction": "mean"})
    with Run(config) as run:
        results = run.all()[ITSELF_ID]
    assert alone[1].queries[ITSELF_ID]["unit"] is None
    assert results.queries[ITSELF_ID]["unit"] == "nats per token"
    found = results.proponents(ITSELF_ID)
    assert len(found) == 5
    assert all(one.score > 0 for one in found)
    assert {(one.delta_nats, one.beyond_linear) for one in found} == {(None, None)}
    page = render_page({ITSELF_ID: results}).partition("<body")[2]
    assert "nats per token" in page
    assert "None" not in page
    assert "self_influence predicts no change, and has no delta nats." in page


def test_the_first_are_those_of_the_largest_scores_and_groups_add_up(
    alone: tuple[RunConfig, Results],
) -> None:
    _, results = alone
    scores = results.scores(ITSELF_ID).to_pandas().set_index("sequence_id")["score"]
    assert len(scores) == results.manifest["n_sequences"]
    assert (scores > 0).all()
    largest = scores.sort_values(ascending=False).index[:5].tolist()
    assert [one.sequence_id for one in results.proponents(ITSELF_ID)] == largest
    groups = results.groups.to_pandas()
    assert groups["positive_sum"].sum() == pytest.approx(scores.sum(), rel=1e-5)
    assert (groups["negative_sum"] == 0).all()


def test_reports_speak_of_sequences_and_of_no_completion(
    alone: tuple[RunConfig, Results],
) -> None:
    printed = io.StringIO()
    render(alone[1], Console(file=printed, width=200))
    page = render_page({ITSELF_ID: alone[1]}).partition("<body")[2]
    for text in (page, printed.getvalue()):
        assert "each sequence by itself" in text
        assert "Opponents" not in text
        assert "None" not in text
        assert "completion" not in text
    assert "estimated to raise their own probability" in page


def test_it_is_the_same_beside_other_methods_to_the_last_bit(
    alone: tuple[RunConfig, Results], tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    """Their queries are in the same tables, and in none of its rows."""
    config = tiny_run(tmp_path, scan={**SCAN, "methods": ["ekfac", ITSELF_ID, "bm25"]})
    results = execute(config)
    ours, together = (contents(Path(one.run)) for one in (alone[0], config))
    of_scan = [key for key in ours if re.match("scan/.*/(partials|scores)/", key)]
    assert len(of_scan) > 8
    assert all(together[key] == ours[key] for key in of_scan)
    assert list(results["ekfac"].queries) == list(results["bm25"].queries) == ["q0", "q1", "q2"]
    assert list(results[ITSELF_ID].queries) == [ITSELF_ID]
    for column in ("sequence_id", "score", "layer_scores"):
        assert results[ITSELF_ID].survivors[column] == alone[1].survivors[column]
    page = render_page(results)
    assert "This method was not run on this query" not in page
    assert page.count('class="query"') == 4


def test_a_query_that_is_added_leaves_it_as_it_is(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 20, scan={"methods": ["ekfac", ITSELF_ID]})
    before = execute(config)[ITSELF_ID]
    made = partials(Path(config.run))
    add_query(tmp_path)
    results = execute(config)
    assert results[ITSELF_ID].survivors.equals(before.survivors)
    assert partials(Path(config.run)).items() >= made.items()
    assert len(results[ITSELF_ID].manifest["methods"][ITSELF_ID]["banks"]) == 1
    assert len(results["ekfac"].manifest["methods"]["ekfac"]["banks"]) == 2


def test_what_is_lost_is_made_again_to_the_same_bytes(
    tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    """Some partials, the second pass, the results; and a damaged factor under way."""
    config = tiny_run(tmp_path, 20, scan=SCAN, queries=None)
    execute(config)
    run = Path(config.run)
    before = contents(run)
    for key in sorted(partials(run))[::2]:
        (run / key).unlink()
    for folder in ("rescored", "results"):
        for path in (run / folder).rglob("*"):
            if path.is_file():
                path.unlink()
    factors = next(iter(sorted(run.glob("factors/*/modules/*.safetensors"))), None)
    assert factors is not None
    factors.write_bytes(factors.read_bytes()[:-4])
    execute(config)
    assert contents(run) == before


def test_other_methods_still_need_queries(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, scan={"methods": [ITSELF_ID, "ekfac"]}, queries=None)
    with pytest.raises(ConfigError, match=r"name a queries\.jsonl"), Run(config) as run:
        run.all()


def test_queries_that_nobody_asks_are_said(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 12, scan={"methods": [ITSELF_ID]})
    results = execute(config)[ITSELF_ID]
    [said] = [text for text in results.warnings if text.startswith("queries:")]
    assert "queries.jsonl is not asked" in said
    assert list(results.queries) == [ITSELF_ID]


def test_a_query_of_its_name_is_refused_beside_it(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 12, scan={"methods": ["gradient_product", ITSELF_ID]})
    add_query(tmp_path, ITSELF_ID)
    with pytest.raises(QueryError, match="give the query another id"):
        execute(config)
    # Without the method nothing speaks against it.
    other = tiny_run(tmp_path / "other", 12, scan={"methods": ["gradient_product"]})
    add_query(tmp_path / "other", ITSELF_ID)
    results = execute(other)["gradient_product"]
    assert ITSELF_ID in results.queries
    assert results.proponents(ITSELF_ID)


def test_plan_and_status_know_of_it(alone: tuple[RunConfig, Results], tmp_path: Path) -> None:
    for methods in ([ITSELF_ID], [ITSELF_ID, "cosine"]):
        config = tiny_run(tmp_path / methods[-1], 12, scan={"methods": methods})
        with Run(config) as run:
            plan = run.plan()
        assert (plan.work.n_banks, plan.work.n_themselves) == (len(methods) - 1, 1)
        assert plan.forecast.seconds["scan"] > 0
        assert plan.forecast.memory["factors in the scan"] > 0
        json.dumps(plan.to_json())
    config = alone[0]
    found = status(Store(config.run), Store(f"{config.run}/corpus"))
    assert found.has_results
    assert f"1 queries by {ITSELF_ID}" in " ".join(stage.remark for stage in found.stages)
    assert (results_of(Path(config.run)) / f"{ITSELF_ID}.parquet").exists()
