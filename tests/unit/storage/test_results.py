import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from whole_runs import TABLES, results_of

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute import scoring as stages
from rayinfluence.errors import StorageError
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.storage.tables import Rows
from rayinfluence.testing import tiny_run

Done = tuple[Path, RunConfig]


def load(done: Done, method: str | None = None) -> Results:
    return rayinfluence.load_results(done[1].run, method)


def test_survivors_are_what_the_table_says(finished: Done) -> None:
    results = load(finished)
    rows = results.table.to_pylist()
    for row in rows:
        side = results.proponents if row["direction"] == "proponent" else results.opponents
        hit = side(row["query_id"])[row["rank"] - 1]
        for key in (
            "score",
            "sequence_id",
            "document_id",
            "shard",
            "row",
            "beyond_linear",
            "concentration",
            "carried_by",
            "carrier_in_completion",
            "suspect",
            "n_tokens",
            "scan_score",
            "content_digest",
            "document_file",
            "document_row",
            "token_start",
            "text",
            "tokens",
        ):
            assert getattr(hit, key) == row[key]
        assert hit.metadata == {"source": row["metadata.source"], "year": row["metadata.year"]}
        assert isinstance(hit.metadata["year"], int)
        assert hit.layer_scores == dict(row["layer_scores"])
        assert hit.text == "".join(row["token_texts"])
    found = [results.proponents(q) + results.opponents(q) for q in results.queries]
    assert sum(map(len, found)) == len(rows)


def test_as_many_survivors_are_given_as_are_asked_for(finished: Done) -> None:
    results = load(finished)
    whole = results.opponents("q1")
    assert results.count("q1", "opponent") == len(whole) == 5
    assert results.opponents("q1", 2) == whole[:2]
    assert results.deltas("q1", "opponent", 3) == [hit.delta_nats for hit in whole[:3]]
    results.keep(2)
    assert results.opponents("q1", 2) == whole[:2]
    assert results.opponents("q1") == whole


def test_an_unknown_query_is_named_with_one_that_is_known(finished: Done) -> None:
    with pytest.raises(StorageError, match="no query 'nobody'; they have 3, such as 'q0'"):
        load(finished).proponents("nobody")


def test_a_method_that_was_not_run_is_refused(finished: Done) -> None:
    assert load(finished).method == load(finished, "ekfac").method == "ekfac"
    with pytest.raises(StorageError, match="kfac") as caught:
        load(finished, "kfac")
    assert "ekfac" in str(caught.value)


def test_a_run_without_results_says_what_to_run(done: Done) -> None:
    (done[0] / "run" / "results" / "manifest.json").unlink()
    with pytest.raises(StorageError, match=r"/run has no results yet: `rayinfluence run` on its"):
        load(done)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("run.yaml", "run.yaml is a file, and no run directory"),
        ("queries.jsonl", "queries.jsonl is a file, and no run directory"),
        ("missing", "missing does not exist"),
        ("empty", "empty is no run directory: a run leaves a config.json there"),
        ("model", "model is no run directory: its config.json is not that of a run"),
        ("list", "list is no run directory: its config.json is not that of a run"),
        ("garbled", "garbled is no run directory: its config.json is not that of a run"),
        ("other", "manifest.json is no manifest of results: it names no methods"),
    ],
)
def test_what_is_no_run_directory_is_told_what_it_is(done: Done, place: str, what: str) -> None:
    folder = done[0]
    (folder / "run.yaml").write_text("run: run\nmodel: model\n")
    for name, body in (("list/config.json", "[1]"), ("garbled/config.json", "{"),
                       ("other/results/manifest.json", '{"version": 1}')):  # fmt: skip
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(body)
    (folder / "empty").mkdir()
    with pytest.raises(StorageError, match=what) as caught:
        rayinfluence.load_results(folder / place)
    assert "has no results" not in str(caught.value)
    assert "run" in str(caught.value)


def test_a_damaged_configuration_of_a_run_does_not_hide_its_results(done: Done) -> None:
    (done[0] / "run" / "config.json").write_text("{")
    assert load(done).method == "ekfac"
    (done[0] / "run" / "results" / "manifest.json").unlink()
    with pytest.raises(StorageError, match=r"run/config\.json is damaged"):
        load(done)


@pytest.mark.parametrize("body", ["", "{", "[]"])
def test_a_damaged_manifest_is_named(done: Done, body: str) -> None:
    (done[0] / "run" / "results" / "manifest.json").write_text(body)
    with pytest.raises(StorageError, match=r"results/manifest\.json is damaged"):
        load(done)


@pytest.mark.parametrize("name", TABLES)
def test_a_damaged_or_missing_table_is_named(done: Done, name: str) -> None:
    path = results_of(done[0] / "run") / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError, match=f"{name} is damaged: it is not the table that its"):
        load(done).proponents("q0")  # sequences are read when they are used
    path.unlink()
    with pytest.raises(StorageError, match=f"{name} does not exist"):
        load(done)


@pytest.mark.parametrize(("theirs", "shown"), [(None, 1), (1, 1), (3, 3), ("two", 0)])
def test_results_of_another_schema_are_refused_with_its_version_and_what_to_do(
    done: Done, say: Callable[..., tuple[int, str, str]], theirs: Any, shown: int
) -> None:
    """Those that earlier versions wrote name none, and had one table a method."""
    path = done[0] / "run/results/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["schema_version"]
    if theirs is not None:
        manifest["schema_version"] = theirs
    path.write_text(json.dumps(manifest))
    with pytest.raises(StorageError) as caught:
        load(done)
    told = str(caught.value)
    assert f"run has results of schema version {shown}, which rayinfluence " in told
    assert "reads schema version 2: `rayinfluence run` on its config makes them again" in told
    assert "or read them with the version of rayinfluence that wrote them" in told
    code, _, errors = say("report", done[1].run)
    assert (code, f"schema version {shown}" in errors) == (5, True)
    code, printed, _ = say("status", done[1].run)
    assert code == 0
    assert f"of schema version {shown}, which is not read any more: run again" in printed


def test_results_of_another_schema_stay_beside_those_that_a_run_makes_again(
    done: Done, execute: Callable[..., dict[str, Results]]
) -> None:
    folder = done[0] / "run" / "results"
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["schema_version"]
    manifest["fingerprint"] = "0" * 32
    shutil.rmtree(folder)
    (folder / ("0" * 32)).mkdir(parents=True)
    for path in (folder, folder / ("0" * 32)):
        (path / "manifest.json").write_text(json.dumps(manifest))
    execute(done[1])
    assert load(done).method == "ekfac"
    assert "0" * 32 in Results.versions(Store(done[1].run))
    with pytest.raises(StorageError, match="schema version 1"):
        rayinfluence.load_results(done[1].run, version="0" * 32)


def test_a_manifest_without_tables_is_damaged(done: Done) -> None:
    path = done[0] / "run/results/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["tables"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match=r"manifest\.json names no tables: delete it"):
        load(done)


def test_a_score_that_the_scan_saw_otherwise_is_suspect(
    tmp_path: Path, execute: Callable[..., dict[str, Results]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a neighbour in the batch had a part in it: the second pass has other neighbours."""
    original = stages.finite_scores

    def disturbed(found: Any, n_queries: int, quarantine: Any) -> Any:
        for batch, scores in found:
            scores[batch.sequence_ids == 7] *= 1.5
        return original(found, n_queries, quarantine)

    monkeypatch.setattr(stages, "finite_scores", disturbed)
    rows = execute(tiny_run(tmp_path, 12, scan={"top": 50}))["ekfac"].table.to_pylist()
    suspects = [(row["query_id"], row["sequence_id"]) for row in rows if row["suspect"]]
    assert sorted(suspects) == [("q0", 7), ("q1", 7), ("q2", 7)]


def test_results_can_be_read_without_the_rest_of_the_run(done: Done, tmp_path: Path) -> None:
    shutil.copytree(done[0] / "run" / "results", tmp_path / "alone" / "results")
    alone = Results.load(Store(str(tmp_path / "alone")))
    assert alone.table.equals(load(done).table)
    assert alone.proponents("q1") == load(done).proponents("q1")


def test_the_manifest_is_json_for_anybody(finished: Done) -> None:
    body = (finished[0] / "run" / "results" / "manifest.json").read_text("utf-8")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads(body, parse_constant=refuse)


def test_queries_without_hits_are_no_trouble(finished: Done) -> None:
    results = load(finished)
    tables = results.groups, results.statistics, results.tails
    queries = pq.read_table(results_of(finished[0] / "run") / "queries.parquet")
    nothing, sequences = Rows(results.survivors.slice(0, 0)), Rows(results.sequences)
    empty = Results("ekfac", nothing, sequences, queries, *tables, results.manifest)
    assert empty.proponents("q0") == empty.opponents("q0") == []
    assert len(empty.table) == empty.count("q0", "proponent") == 0
    empty.keep(3)


def test_survivors_of_other_sequences_are_refused(finished: Done) -> None:
    results = load(finished)
    tables = results.groups, results.statistics, results.tails
    queries = pq.read_table(results_of(finished[0] / "run") / "queries.parquet")
    fewer = Rows(results.sequences.slice(0, 1))
    odd = Results("ekfac", Rows(results.survivors), fewer, queries, *tables, results.manifest)
    with pytest.raises(StorageError, match="lacks some that the results are about"):
        odd.proponents("q0")
