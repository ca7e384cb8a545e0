"""`rayinfluence ask` of runs that are filtered, and of those that lie in object storage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import rayinfluence
from rayinfluence.testing.runs import tiny_run

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]


def asked(say: Say, *place: object) -> dict[str, Any]:
    code, printed, errors = say("ask", *place, "w1 w2", " w3 w4", "--json")
    assert code == 0, errors
    found: dict[str, Any] = json.loads(printed)
    return found


def test_a_filtered_run_is_asked_what_a_run_with_the_query_in_its_file_finds(
    tmp_path: Path, say: Say
) -> None:
    candidates = {"method": "tfidf", "top": 3, "sample": 10**6}
    scan = {"methods": ["ekfac"], "candidates": candidates}
    config = tiny_run(tmp_path, n_documents=30, scan=scan)
    before = rayinfluence.run(config)
    found = asked(say, config.run)
    results = rayinfluence.load_results(config.run)
    assert set(results.queries) == {*before.queries, found["query_id"]}
    with (tmp_path / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "w1 w2", "completion": " w3 w4"}) + "\n")
    other = rayinfluence.run(tiny_run_again(config, tmp_path, "other"))
    assert results.manifest["filter"]["candidates"] == other.manifest["filter"]["candidates"]
    for query_id in results.queries:
        same = {one.sequence_id: one.score for one in other.proponents(query_id)}
        ours = {one.sequence_id: one.score for one in results.proponents(query_id)}
        assert ours == pytest.approx(same, rel=1e-4)


def tiny_run_again(config: Any, tmp_path: Path, name: str, **changes: Any) -> Any:
    values = config.model_dump() | {"run": str(tmp_path / name)} | changes
    return rayinfluence.RunConfig.parse(values)


def test_the_candidates_of_another_run_are_those_of_its_queries(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path, n_documents=30)
    rayinfluence.run(config)
    candidates = {"run": config.run, "method": "ekfac", "top": 3}
    scan = {**config.scan.model_dump(), "candidates": candidates}
    filtered = tiny_run_again(config, tmp_path, "filtered", scan=scan)
    rayinfluence.run(filtered)
    query_id = asked(say, filtered.run)["query_id"]
    results = rayinfluence.load_results(filtered.run)
    survivors = rayinfluence.load_results(config.run).survivors.to_pylist()
    theirs = {row["sequence_id"] for row in survivors if row["rank"] <= 3}
    told = results.manifest["filter"]
    assert (told["run"], told["candidates"]) == (config.run, len(theirs))
    assert {one.sequence_id for one in results.proponents(query_id)} <= theirs
    assert query_id in told["recall"]["ekfac"]


def test_a_run_in_object_storage_is_asked(
    tmp_path: Path, say: Say, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(tmp_path, n_documents=20, run="s3://bucket/run", storage=s3)
    rayinfluence.run(config)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    by_file = asked(say, path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3["endpoint_url"])
    assert asked(say, "s3://bucket/run") == by_file
    results = rayinfluence.load_results("s3://bucket/run")
    assert by_file["query_id"] in results.queries
    assert [one["score"] for one in by_file["methods"]["ekfac"]["proponents"]] == [
        one.score for one in results.proponents(by_file["query_id"], 5)
    ]
