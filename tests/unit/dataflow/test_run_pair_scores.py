"""Scores by pairs of tokens in a whole run: who has them, what they add up to, what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from whole_runs import Change, Contents, Execute, survivors

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute.pair_work import QueryWork
from rayinfluence.dataflow.jobs.pairs import PairsJob
from rayinfluence.dataflow.run import Run
from rayinfluence.storage.results import Results
from rayinfluence.storage.results.reader import _survivor
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

METHODS = ["ekfac", "cosine", "tfidf", "self_influence"]
QUERIES = [
    {"query_id": "plain", "prompt": "w1 w2", "completion": " w3 w4 w5"},
    {
        "query_id": "spans",
        "prompt": "w1 w2",
        "completion": " w3 w4 w5 w6",
        "spans": [[3, 6], [9, 12]],
    },
    {"query_id": "one", "prompt": "w1 w2", "completion": " w3"},
    {"query_id": "contrast", "prompt": "w1 w2", "completion": " w3", "rather_than": " w4 w5"},
    {
        "query_id": "set",
        "set": [{"prompt": "w1", "completion": " w2 w3"}, {"prompt": "w4", "completion": " w5 w6"}],
    },
]
#: What the manifest says where there are no such scores.
NONE = {"hits": 0, "methods": [], "most_parts": 0}
ENDS = {"plain": [1, 2, 3], "spans": [2, 4], "one": None, "contrast": [1], "set": None}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Results]]:
    """A run of all kinds of queries; nobody may change it."""
    folder = tmp_path_factory.mktemp("asked")
    config = tiny_run(folder, scan={"methods": METHODS, "pair_scores": 2})
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, QUERIES)))
    with Run(config) as run:
        return config, run.all()


def test_the_first_of_each_direction_have_them_of_queries_with_parts(
    asked: tuple[RunConfig, dict[str, Results]],
) -> None:
    for method, results in asked[1].items():
        if method == "self_influence":
            assert results.survivors["pair_scores"].null_count == len(results.survivors)
            continue
        assert {name: row["part_ends"] for name, row in results.queries.items()} == ENDS
        for row in results.survivors.to_pylist():
            has = row["rank"] <= 2 and ENDS[row["query_id"]] is not None
            assert (row["pair_scores"] is not None) is has
            if has:
                lengths = {len(scores) for scores in row["pair_scores"]}
                assert len(row["pair_scores"]) == len(ENDS[row["query_id"]])
                assert lengths == {len(row["token_scores"])}


def test_over_parts_they_add_up_to_scores_by_token(
    asked: tuple[RunConfig, dict[str, Results]],
) -> None:
    """Made in float32 in other batches; but for a contrast, whose other side has no parts."""
    for method in ("ekfac", "cosine"):
        results = asked[1][method]
        for query_id in ("plain", "spans"):
            hits = [*results.proponents(query_id, 2), *results.opponents(query_id, 2)]
            largest = max(np.abs(hit.token_scores).max() for hit in hits)
            for hit in hits:
                over_parts = np.sum(hit.pair_scores, axis=0)
                np.testing.assert_allclose(over_parts, hit.token_scores, atol=1e-5 * largest)
                # And no part has all of it.
                assert np.abs(hit.pair_scores).sum(axis=1).min() > 0
        for hit in results.proponents("contrast", 2):
            assert not np.allclose(np.sum(hit.pair_scores, axis=0), hit.token_scores, rtol=0.01)


def test_by_texts_a_term_has_what_it_adds(asked: tuple[RunConfig, dict[str, Results]]) -> None:
    """Of the query w1 w2 | w3 w4 w5 each part is one term, and the prompt is none."""
    found = 0
    for hit in asked[1]["tfidf"].proponents("plain", 2):
        texts = [text.strip() for text in hit.token_texts]
        for word, scores in zip(["w3", "w4", "w5"], hit.pair_scores, strict=True):
            expected = [s if t == word else 0 for t, s in zip(texts, hit.token_scores, strict=True)]
            np.testing.assert_allclose(scores, expected, rtol=1e-6)
            found += any(scores)
    assert found


def test_asked_for_later_they_are_added_and_nothing_is_scanned_again(
    tmp_path: Path, execute: Execute, change: Change, contents: Contents
) -> None:
    config = tiny_run(tmp_path, scan={"pair_scores": 0})
    before = execute(config)["ekfac"]
    assert before.survivors["pair_scores"].null_count == len(before.survivors)
    assert before.manifest["pair_scores"] == NONE
    assert {row["part_ends"] for row in before.queries.values()} == {None}
    there = contents(tmp_path / "run")
    after = execute(change(config, scan={"pair_scores": 1}))["ekfac"]
    assert after.manifest["pair_scores"] == {"hits": 1, "methods": ["ekfac"], "most_parts": 32}
    for key, body in contents(tmp_path / "run").items():
        assert there.get(key, body) == body or not key.endswith((".safetensors", ".parquet"))
        assert key in there or key.startswith(("rescored/", "results/"))
    assert survivors(before) == survivors(after)
    n_first = sum(row["rank"] == 1 for row in after.survivors.to_pylist())
    assert len(after.survivors) - after.survivors["pair_scores"].null_count == n_first


def test_what_is_damaged_is_made_again(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(tmp_path)
    table = execute(config)["ekfac"].survivors
    objects = sorted((tmp_path / "run" / "rescored").glob("*.pairs.safetensors"))
    assert len(objects) == 3
    bodies = [file.read_bytes() for file in objects]
    objects[1].write_bytes(bodies[1][:-8] + bytes(8 * [255]))
    made: list[str] = []
    run = PairsJob.run
    monkeypatch.setattr(
        PairsJob, "run", lambda self, *told: made.append(told[1].key) or run(self, *told)
    )
    for file in (tmp_path / "run" / "results").rglob("*.*"):
        file.unlink()
    assert execute(config)["ekfac"].survivors.equals(table)
    assert made == [objects[1].name]
    assert [file.read_bytes() for file in objects] == bodies


def test_where_they_would_take_long_there_are_none_and_it_is_said(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("rayinfluence.dataflow.compute.pair_work._BEGIN", 0)
    monkeypatch.setattr("rayinfluence.dataflow.compute.pair_work._SHARE", 10**9)
    config = tiny_run(tmp_path)
    with Run(config) as run:
        results = run.all()["ekfac"]
    assert results.manifest["pair_scores"] == NONE
    assert results.survivors["pair_scores"].null_count == len(results.survivors)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "pair scores none: with two parts of each completion they would take more" in said


def test_rows_of_earlier_results_have_none(asked: tuple[RunConfig, dict[str, Results]]) -> None:
    table = asked[1]["ekfac"].table.slice(0, 1).drop_columns(["pair_scores"])
    (row,) = table.to_pylist()
    known = {key: value for key, value in row.items() if not key.startswith("metadata")}
    hit = _survivor(known, pa.schema([f for f in table.schema if f.name in known]))
    assert hit.pair_scores is None


def test_with_few_parts_fewer_have_them(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parts of five hits are less than eight of two."""
    asked: list[int] = []

    def most_parts(work: list[QueryWork], *_told: object) -> int:
        asked.append(sum(one.run for one in work))
        return 8 if len(set(asked)) > 1 else 2

    monkeypatch.setattr("rayinfluence.dataflow.stages.pair_pass.most_parts", most_parts)
    results = execute(tiny_run(tmp_path))["ekfac"]
    assert asked == sorted(asked, reverse=True)
    assert results.manifest["pair_scores"] == {"hits": 2, "methods": ["ekfac"], "most_parts": 8}
    ranks = {row["rank"] for row in results.survivors.to_pylist() if row["pair_scores"]}
    assert ranks == {1, 2}


def test_the_first_of_several_methods_has_them_where_all_would_take_long(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    def most_parts(work: list[QueryWork], *_told: object) -> int:
        return 4 if any(len([n for n in one.scored if n]) > 1 for one in work) else 16

    monkeypatch.setattr("rayinfluence.dataflow.stages.pair_pass.most_parts", most_parts)
    found = execute(tiny_run(tmp_path, scan={"methods": METHODS}))
    told = {"hits": 5, "methods": ["ekfac", "tfidf"], "most_parts": 16}
    for method, results in found.items():
        assert results.manifest["pair_scores"] == told
        has = len(results.survivors) - results.survivors["pair_scores"].null_count
        assert bool(has) is (method in told["methods"])
