"""Whole runs on one thread: what is done again, what is not, and that no settings mix."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.stages import query_gradient
from rayinfluence.errors import ConfigError, NumericsError, RayInfluenceError
from rayinfluence.storage.results import TABLE_ENDINGS, Results
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run
from rayinfluence.testing.runs import write_documents

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]
Contents = Callable[[Path], dict[str, bytes]]
Done = tuple[Path, RunConfig]

TABLES = tuple(f"results/ekfac{ending}.parquet" for ending in TABLE_ENDINGS)


def times(run: Path) -> dict[str, int]:
    """When each committed object was written."""
    return {
        str(path.relative_to(run)): path.stat().st_mtime_ns
        for path in run.rglob("*.*")
        if path.suffix in (".safetensors", ".parquet")
    }


def partials(run: Path) -> dict[str, int]:
    return {key: time for key, time in times(run).items() if "/partials/" in key}


def survivors(results: Results) -> dict[tuple[str, str, int], float]:
    """Scores by query, direction and sequence."""
    rows = results.table.select(["query_id", "direction", "sequence_id", "score"]).to_pylist()
    return {(r["query_id"], r["direction"], r["sequence_id"]): r["score"] for r in rows}


def of_query(run: Path, query_id: str) -> pa.Table:
    table = pq.read_table(run / TABLES[0])
    return table.filter(pa.compute.equal(table["query_id"], query_id))


# What a run writes.


def test_two_runs_of_the_same_inputs_have_the_same_bytes(
    finished: Done, tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    execute(tiny_run(tmp_path))
    ours, theirs = contents(finished[0] / "run"), contents(tmp_path / "run")
    assert len(ours) > 30
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if ours[key] != theirs[key]] == []


def test_results_are_complete_and_in_order(finished: Done) -> None:
    folder, _ = finished
    results = rayinfluence.load_results(str(folder / "run"))
    assert list(results.queries) == ["q0", "q1", "q2"]
    documents = [json.loads(x) for x in (folder / "documents.jsonl").read_text().splitlines()]
    for query_id in results.queries:
        for direction in (results.proponents, results.opponents):
            hits = direction(query_id)
            assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
            sizes = [abs(hit.score) for hit in hits]
            assert sizes == sorted(sizes, reverse=True)
            for hit in hits:
                document = documents[int(hit.document_id.removeprefix("documents-"))]
                assert hit.text == document["text"][hit.char_start : hit.char_end].strip()
                assert hit.source == document["source"]
                assert hit.metadata["year"] == str(document["year"])
                assert hit.delta_nats == pytest.approx(hit.score / results.manifest["n_sequences"])
                assert len(hit.token_texts) == len(hit.token_scores) == hit.n_tokens
                assert sum(hit.token_scores) == pytest.approx(hit.score, rel=1e-3, abs=1e-3)
                assert sum(hit.layer_scores.values()) == pytest.approx(
                    hit.score, rel=1e-3, abs=1e-3
                )
        assert all(hit.score > 0 for hit in results.proponents(query_id))
        assert all(hit.score < 0 for hit in results.opponents(query_id))


def test_group_sums_are_over_all_sequences(finished: Done) -> None:
    results = rayinfluence.load_results(str(finished[0] / "run"))
    rows = results.groups.to_pylist()
    assert [row["query_id"] for row in rows] == ["q0"] * 3 + ["q1"] * 3 + ["q2"] * 3
    assert {row["value"] for row in rows} == {"alpha", "beta", "gamma"}
    for query_id in results.queries:
        ours = [row for row in rows if row["query_id"] == query_id]
        assert sum(row["n_sequences"] for row in ours) == results.manifest["n_sequences"]
        best = sum(hit.score for hit in results.proponents(query_id))
        assert sum(row["positive_sum"] for row in ours) >= best * (1 - 1e-6)


def test_the_manifest_says_what_was_done(finished: Done) -> None:
    folder, config = finished
    manifest = rayinfluence.load_results(str(folder / "run")).manifest
    assert manifest["corpus"]["documents"] == 60
    assert manifest["corpus"]["bad_documents"] == 0
    assert manifest["methods"]["ekfac"]["scanned_sequences"] == manifest["n_sequences"]
    assert manifest["methods"]["ekfac"]["scanned_tokens"] == manifest["n_tokens"]
    assert manifest["methods"]["ekfac"]["quarantined"] == []
    assert list(manifest["methods"]["ekfac"]["rescoring"]) == ["q0", "q1", "q2"]
    assert manifest["dense_scores"] is None
    assert 0 < manifest["model"]["coverage"] < 1
    assert set(manifest["methods"]["ekfac"]["damping"]) == set(manifest["model"]["modules"])
    assert manifest["config"] == config.model_dump()
    assert manifest["numerics"]["dtype"] == "float32"
    assert {"torch", "pyarrow", "rayinfluence"} <= manifest["versions"].keys()
    assert {"tokenize", "covariance", "moments", "scan", "explain"} <= manifest["stages"].keys()


def test_the_tables_hold_neither_times_nor_places(finished: Done) -> None:
    folder, _ = finished
    for name in TABLES:
        body = (folder / "run" / name).read_bytes()
        assert str(folder).encode() not in body
        table = pq.read_table(folder / "run" / name)
        assert not any(str(folder) in str(column) for column in table.to_pydict().values())


# What is done again, and what is not.


def test_a_second_run_does_nothing(done: Done, execute: Execute, contents: Contents) -> None:
    folder, config = done
    before, written = contents(folder / "run"), times(folder / "run")
    execute(config)
    assert contents(folder / "run") == before
    assert times(folder / "run") == written


def test_results_that_were_cleaned_are_made_again_from_the_partials(
    done: Done, execute: Execute, contents: Contents
) -> None:
    folder, config = done
    before, written = contents(folder / "run"), partials(folder / "run")
    shutil.rmtree(folder / "run" / "results")
    execute(config)
    assert contents(folder / "run") == before
    assert partials(folder / "run") == written


@pytest.mark.parametrize("name", TABLES)
def test_one_table_that_was_deleted_is_made_again(
    done: Done, execute: Execute, contents: Contents, name: str
) -> None:
    folder, config = done
    before = contents(folder / "run")
    (folder / "run" / name).unlink()
    execute(config)
    assert contents(folder / "run") == before


def add_query(folder: Path, query_id: str = "new", prompt: str = "w1 w2") -> None:
    with (folder / "queries.jsonl").open("a") as file:
        row = {"query_id": query_id, "prompt": prompt, "completion": " w3 w4"}
        file.write(json.dumps(row) + "\n")


def test_an_added_query_is_scanned_and_no_other(done: Done, execute: Execute) -> None:
    folder, config = done
    run = folder / "run"
    before, tables = times(run), {q: of_query(run, q) for q in ("q0", "q1", "q2")}
    add_query(folder)
    results = execute(config)["ekfac"]
    after = times(run)
    assert {key: after[key] for key in before if "results/" not in key} == {
        key: time for key, time in before.items() if "results/" not in key
    }
    assert len(partials(run)) == 2 * len([key for key in before if "/partials/" in key])
    assert len([key for key in after if key.startswith("queries/")]) == 4
    assert list(results.queries) == ["q0", "q1", "q2", "new"]
    assert len(results.proponents("new")) == 5
    assert all(of_query(run, query).equals(table) for query, table in tables.items())


def test_an_added_query_has_the_scores_it_has_alone(
    done: Done, execute: Execute, change: Change
) -> None:
    folder, config = done
    add_query(folder)
    together = survivors(execute(config)["ekfac"])
    (folder / "queries.jsonl").write_text((folder / "queries.jsonl").read_text().split("\n")[3])
    alone = survivors(execute(change(config, run=str(folder / "alone")))["ekfac"])
    assert alone == pytest.approx({k: v for k, v in together.items() if k[0] == "new"}, rel=1e-5)


def test_a_removed_query_disappears_and_comes_back_for_nothing(
    done: Done, execute: Execute, contents: Contents
) -> None:
    folder, config = done
    run, before = folder / "run", contents(folder / "run")
    written, lines = partials(run), (folder / "queries.jsonl").read_text().splitlines()
    scores = survivors(rayinfluence.load_results(config.run))
    (folder / "queries.jsonl").write_text(lines[2] + "\n" + lines[0] + "\n")
    results = execute(config)["ekfac"]
    assert list(results.queries) == ["q2", "q0"]
    assert survivors(results) == {key: s for key, s in scores.items() if key[0] != "q1"}
    assert partials(run) == written
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    execute(config)
    assert contents(run) == before
    assert partials(run) == written


def test_the_same_question_under_two_ids_is_scanned_once(done: Done, execute: Execute) -> None:
    folder, config = done
    add_query(folder, "new")
    add_query(folder, "twin")
    results = execute(config)["ekfac"]
    scores = [hit.score for hit in results.proponents("new")]
    assert [hit.score for hit in results.proponents("twin")] == scores
    assert len(list((folder / "run" / "queries").rglob("*.safetensors"))) == 4


def test_other_metadata_of_a_query_reach_the_results(done: Done, execute: Execute) -> None:
    folder, config = done
    lines = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    lines[0]["metadata"] = {"asked": "today"}
    lines[1]["query_id"] = "renamed"
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))
    written = partials(folder / "run")
    results = execute(config)["ekfac"]
    assert results.queries["q0"]["metadata"] == {"asked": "today"}
    assert list(results.queries) == ["q0", "renamed", "q2"]
    assert partials(folder / "run") == written


def add_documents(folder: Path, config: RunConfig, change: Change, count: int = 20) -> RunConfig:
    # Its name sorts before the first file's: it is appended all the same.
    write_documents(folder / "added.jsonl", np.random.default_rng(1), count)
    return change(
        config, corpus={"documents": [str(folder / "added.jsonl"), *config.corpus.documents]}
    )


def test_added_documents_are_scanned_and_the_factors_are_kept_with_a_warning(
    done: Done, execute: Execute, change: Change, said: Any
) -> None:
    folder, config = done
    run = folder / "run"
    before = times(run)
    larger = add_documents(folder, config, change)
    results = execute(larger)["ekfac"]
    after = times(run)
    kept = {key: time for key, time in before.items() if "results/" not in key}
    assert {key: after[key] for key in kept} == kept
    new = {key.split("/")[0] for key in after.keys() - before.keys()}
    assert new == {"corpus", "scan"}
    assert "the factors were fitted when the corpus had 1 shards; it has 2 now" in said.getvalue()
    assert "clean --stage factors" in results.manifest["warnings"][0]
    assert results.manifest["corpus"]["documents"] == 80
    found = results.table["document_id"].to_pylist()
    assert {name.split("-")[0] for name in found} == {"added", "documents"}


def test_factors_that_were_cleaned_are_fitted_on_all_documents(
    done: Done, execute: Execute, change: Change, said: Any
) -> None:
    folder, config = done
    first = rayinfluence.load_results(config.run).manifest["factors"]
    larger = add_documents(folder, config, change)
    execute(larger)
    shutil.rmtree(folder / "run" / "factors")
    said.truncate(0)
    again = execute(larger, new_run=True)["ekfac"].manifest
    assert "warning: the factors" not in said.getvalue()
    assert again["warnings"] == []
    assert again["factors"]["n_sequences"] > first["n_sequences"]


def test_two_files_of_the_same_documents_are_both_in_the_corpus(
    done: Done, execute: Execute, change: Change
) -> None:
    folder, config = done
    shutil.copy(folder / "documents.jsonl", folder / "twin.jsonl")
    documents = [*config.corpus.documents, str(folder / "twin.jsonl")]
    results = execute(change(config, corpus={"documents": documents}))["ekfac"]
    assert results.manifest["corpus"]["documents"] == 120
    duplicates = [hit.near_duplicate_of for hit in results.proponents("q0")]
    assert duplicates.count(None) < 5


def test_two_files_of_the_same_documents_without_ids_are_both_in_the_corpus(
    tmp_path: Path, execute: Execute, change: Change
) -> None:
    config = tiny_run(tmp_path)
    rows = [json.loads(x) for x in (tmp_path / "documents.jsonl").read_text().splitlines()]
    body = "".join(json.dumps({"text": row["text"]}) + "\n" for row in rows)
    (tmp_path / "documents.jsonl").write_text(body)
    (tmp_path / "twin.jsonl").write_text(body)
    documents = [*config.corpus.documents, str(tmp_path / "twin.jsonl")]
    results = execute(change(config, corpus={"documents": documents}))["ekfac"]
    assert results.manifest["corpus"]["documents"] == 120


def test_a_file_that_is_listed_twice_is_read_once(
    done: Done, execute: Execute, change: Change
) -> None:
    folder, config = done
    documents = [*config.corpus.documents, f"{folder}/doc*.jsonl"]
    manifest = execute(change(config, corpus={"documents": documents}))["ekfac"].manifest
    assert manifest["corpus"]["documents"] == 60


@pytest.mark.parametrize("what", ["changed", "removed"])
def test_documents_that_changed_or_went_are_refused(
    done: Done, execute: Execute, change: Change, what: str
) -> None:
    folder, config = done
    larger = add_documents(folder, config, change)
    if what == "changed":
        write_documents(folder / "documents.jsonl", np.random.default_rng(5), 60)
    else:
        larger = change(config, corpus={"documents": [str(folder / "added.jsonl")]})
    with pytest.raises(RayInfluenceError, match=r"holds .*documents\.jsonl, which `corpus"):
        execute(larger)


def test_documents_may_move(done: Done, execute: Execute, change: Change) -> None:
    folder, config = done
    written = times(folder / "run")
    (folder / "documents.jsonl").rename(folder / "moved.jsonl")
    execute(change(config, corpus={"documents": [str(folder / "moved.jsonl")]}))
    assert times(folder / "run") == written


def test_other_settings_of_the_corpus_are_refused(
    done: Done, execute: Execute, change: Change
) -> None:
    _, config = done
    for settings in ({"context": 8}, {"row_group_tokens": 7}, {"text_column": "body"}):
        with pytest.raises(RayInfluenceError, match=r"tokenised with .* other settings"):
            execute(change(config, corpus=settings))


# Damage.


def spoil(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize("how", ["truncated", "flipped", "emptied", "deleted", "exchanged"])
def test_a_damaged_partial_is_scored_again_to_the_same_bytes(
    done: Done, execute: Execute, contents: Contents, how: str, said: Any
) -> None:
    folder, config = done
    run, before, written = folder / "run", contents(folder / "run"), partials(folder / "run")
    key, other = sorted(written)[3:5]
    path = run / key
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "flipped":
        spoil(path)
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "deleted":
        path.unlink()
    else:
        shutil.copy(run / other, path)
    shutil.rmtree(run / "results")
    execute(config)
    assert contents(run) == before
    after = partials(run)
    assert after.pop(key) != written.pop(key)
    assert after == written
    assert ("1 damaged partials were discarded" in said.getvalue()) == (how != "deleted")


@pytest.mark.parametrize("kind", ["covariance", "eigen", "moments", "modules"])
@pytest.mark.parametrize("how", ["deleted", "flipped"])
def test_a_fit_goes_on_from_what_is_whole(
    done: Done, execute: Execute, contents: Contents, kind: str, how: str
) -> None:
    folder, config = done
    run, before = folder / "run", contents(folder / "run")
    [manifest] = (run / "factors").glob("*/manifest.json")
    manifest.unlink()  # as if the fit had been killed before its end
    shutil.rmtree(run / "results")
    victim = sorted(path for path in (manifest.parent / kind).rglob("*") if path.is_file())[-2]
    touched = str(victim.relative_to(run))
    untouched = {k: t for k, t in times(run).items() if f"/{kind}/" in k and k != touched}
    if how == "deleted":
        victim.unlink()
    else:
        spoil(victim)
    execute(config)
    assert contents(run) == before
    if kind != "modules":
        assert {key: times(run)[key] for key in untouched} == untouched


@pytest.mark.parametrize("how", ["lost", "flipped"])
def test_factors_that_lost_a_file_are_completed(
    done: Done, execute: Execute, contents: Contents, said: Any, how: str
) -> None:
    folder, config = done
    [victim, *_] = sorted((folder / "run" / "factors").glob("*/modules/*"))
    before = contents(folder / "run")
    if how == "lost":
        victim.unlink()
    else:
        spoil(victim)
    add_query(folder)
    execute(config)
    after = contents(folder / "run")
    assert after.items() >= {k: b for k, b in before.items() if "results/" not in k}.items()
    assert (f"{victim.name} is damaged" in said.getvalue()) == (how == "flipped")


def test_tables_of_other_settings_do_not_pass_for_finished_ones(
    done: Done, execute: Execute, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = done
    tables = {name: (folder / "run" / name).read_bytes() for name in TABLES}
    write = Store.write

    def killed(store: Store, key: str, body: bytes) -> None:
        if key == "results/manifest.json":
            raise KeyboardInterrupt
        write(store, key, body)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(change(config, scan={"top": 3}), new_run=True)
    assert (folder / "run" / TABLES[0]).read_bytes() != tables[TABLES[0]]
    execute(config)
    assert {name: (folder / "run" / name).read_bytes() for name in TABLES} == tables


def test_a_query_that_could_not_be_made_can_be_taken_out(
    done: Done, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = done
    before = (folder / "queries.jsonl").read_text()
    add_query(folder, "good", "w3 w4")
    kept = (folder / "queries.jsonl").read_text()
    add_query(folder, "bad", "w5 w6")

    def refuse(replica: Any, query: Any) -> Any:
        if query.query.query_id == "bad":
            raise NumericsError("query 'bad': its gradient is not finite.")
        return query_gradient(replica, query)

    with monkeypatch.context() as patch:
        patch.setattr("rayinfluence.dataflow.jobs.query_gradient", refuse)
        with pytest.raises(NumericsError):
            execute(config)
    (folder / "queries.jsonl").write_text(kept)
    found = execute(config)["ekfac"].table["query_id"].unique().to_pylist()
    assert found == ["q0", "q1", "q2", "good"]
    assert before in kept


@pytest.mark.parametrize("kind", ["eigen", "moments"])
def test_a_fit_that_stopped_early_is_mended(
    tmp_path: Path, execute: Execute, contents: Contents, kind: str
) -> None:
    config = tiny_run(tmp_path, fit={"lanes": 3, "error_bound": 50.0})
    execute(config)
    run = tmp_path / "run"
    before = contents(run)
    [manifest] = (run / "factors").glob("*/manifest.json")
    assert len(json.loads(manifest.read_text())["rounds"]) == 2
    for victim in (kind, "modules"):
        spoil(next(path for path in (manifest.parent / victim).rglob("*") if path.is_file()))
    shutil.rmtree(run / "results")
    shutil.rmtree(run / "queries")
    execute(config)
    assert contents(run) == before


@pytest.mark.parametrize(
    "pattern",
    ["results/manifest.json", "factors/*/manifest.json", "scan/*/manifest.json", "stages.json"],
)
def test_a_damaged_manifest_is_an_error_that_names_it(
    done: Done, execute: Execute, pattern: str
) -> None:
    folder, config = done
    [victim] = (folder / "run").glob(pattern)
    victim.write_bytes(victim.read_bytes()[:-30])
    add_query(folder)
    with pytest.raises(RayInfluenceError, match=rf"{victim.name} is damaged: .* Delete it"):
        execute(config)
    victim.unlink()
    execute(config)


@pytest.mark.parametrize("pattern", ["queries/*/*", "results/ekfac.parquet"])
def test_the_remedy_of_a_damaged_object_works(
    done: Done, execute: Execute, contents: Contents, pattern: str
) -> None:
    folder, config = done
    before, results = contents(folder / "run"), pattern.startswith("results")
    victim = sorted((folder / "run").glob(pattern))[0]
    victim.write_bytes(victim.read_bytes()[:-30])
    if not results:
        add_query(folder)
    with pytest.raises(RayInfluenceError, match=r"is damaged .* Delete it"):
        execute(config)
    victim.unlink()
    execute(config)
    kept = {key: body for key, body in before.items() if results or "results/" not in key}
    assert kept.items() <= contents(folder / "run").items()


@pytest.mark.parametrize("writes", [1, 5, 12, 18, 24, 33])
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_bytes(
    finished: Done,
    tmp_path: Path,
    execute: Execute,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    from rayinfluence.storage.store import Store

    config = tiny_run(tmp_path)
    original, left = Store.write, [writes]

    def dying(self: Store, key: str, body: bytes) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        original(self, key, body)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            execute(config)
    written = times(tmp_path / "run")
    execute(config)
    assert contents(tmp_path / "run") == contents(finished[0] / "run")
    after = times(tmp_path / "run")
    again = {key for key, time in written.items() if after.get(key, time) != time}
    # A round's bases go when the next round has its own. Only the factors' last step, which is
    # cheap, and shards without a manifest are done twice.
    assert all("/modules/" in key or key.startswith("corpus/") for key in again)


# Settings do not mix.


def computed(found: dict[str, bytes]) -> dict[str, bytes]:
    """All but the manifests of banks, which number them in the order of their making."""
    return {key: body for key, body in found.items() if not key.endswith("manifest.json")}


@pytest.mark.parametrize(
    "other",
    [
        {"scan": {"damping_scale": 0.5}},
        {"scan": {"rank": 2}},
        {"scan": {"top": 3}},
        {"scan": {"group_by": ["year"]}},
        {"scan": {"scores": "dense"}},
        {"scan": {"methods": ["gradient_product", "ekfac", "kfac"]}},
        {"scan": {"split_tokens": 60}},
        {"fit": {"lanes": 2}},
        {"seed": 1},
        {"dtype": "float64"},
        {"modules": ["*.attn.*"]},
    ],
    ids=str,
)
def test_other_settings_in_the_same_folder_give_what_they_give_in_a_fresh_one(
    done: Done, execute: Execute, change: Change, contents: Contents, other: dict[str, Any]
) -> None:
    folder, config = done
    run = folder / "run"
    before = contents(run)
    changed = change(config, **other)
    [(section, value)] = other.items()
    name = next(iter(value)) if isinstance(value, dict) else section
    if name != "methods":  # one more is no other
        with pytest.raises(ConfigError, match=rf"made otherwise: .*{name}.*--new-run"):
            execute(changed)
        assert contents(run) == before
    execute(changed, new_run=True)
    mixed = contents(run)
    execute(change(changed, run=str(folder / "fresh")))
    fresh = contents(folder / "fresh")
    assert computed(fresh).items() <= computed(mixed).items()
    assert not computed(fresh).items() <= before.items()
    execute(config)
    assert contents(run).items() >= before.items()


def test_another_model_in_the_same_folder_does_not_mix(
    done: Done, execute: Execute, change: Change, contents: Contents, tmp_path: Path
) -> None:
    folder, config = done
    other = tiny_run(tmp_path / "other", seed=1)
    changed = change(config, model=other.model)
    with pytest.raises(
        ConfigError,
        match=r"factors that were made otherwise: model\.weights: \d+ of \d+ differ, first \w+\.",
    ):
        execute(changed)
    saved = Path(other.model, "config.json")
    text = saved.read_text()
    saved.write_text(text.replace("gelu_new", "relu"))
    with pytest.raises(
        ConfigError, match=r"model\.config\.activation_function: relu, was gelu_new; model\.weights"
    ):
        execute(changed)
    saved.write_text(text)
    execute(changed, new_run=True)
    execute(change(changed, run=str(folder / "fresh")))
    fresh, mixed = contents(folder / "fresh"), contents(folder / "run")
    assert computed(fresh).items() <= computed(mixed).items()


def test_the_reason_for_fitting_anew_is_said(
    done: Done, execute: Execute, change: Change, said: Any
) -> None:
    execute(change(done[1], seed=7), new_run=True)
    assert "fitted anew: numerics.seed: 7, was 0" in said.getvalue()


# Kinds of runs.


def test_gradient_products_need_no_factors(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, scan={"methods": ["gradient_product"]})
    results = execute(config)
    assert list(results) == ["gradient_product"]
    assert not (tmp_path / "run" / "factors").exists()
    assert results["gradient_product"].manifest["factors"] is None
    assert len(results["gradient_product"].proponents("q0")) == 5


def test_methods_share_a_pass_and_each_has_its_results(
    finished: Done, tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    config = tiny_run(tmp_path, scan={"methods": ["ekfac", "kfac", "gradient_product"]})
    results = execute(config)
    assert list(results) == ["ekfac", "kfac", "gradient_product"]
    alone = contents(finished[0] / "run")
    assert alone.items() <= contents(tmp_path / "run").items()
    loaded = rayinfluence.load_results(config.run, "kfac")
    assert loaded.method == "kfac"
    assert survivors(loaded) != survivors(results["ekfac"])
    assert rayinfluence.load_results(config.run).method == "ekfac"


def test_a_rank_that_is_large_enough_is_dense(done: Done, execute: Execute, change: Change) -> None:
    folder, config = done
    dense = survivors(execute(change(config, scan={"rank": "dense"}), new_run=True)["ekfac"])
    full = survivors(execute(change(config, scan={"rank": 1000}), new_run=True)["ekfac"])
    assert full == pytest.approx(dense, rel=1e-3)
    low = rayinfluence.load_results(str(folder / "run"))
    assert low.manifest["methods"]["ekfac"]["rank"] == 13  # the smaller width of every module


@pytest.mark.parametrize("batch_tokens", [1, 17, 1000])
def test_the_size_of_batches_changes_nothing_but_rounding(
    finished: Done, tmp_path: Path, execute: Execute, batch_tokens: int
) -> None:
    ours = survivors(rayinfluence.load_results(finished[1].run))
    theirs = survivors(execute(tiny_run(tmp_path, batch_tokens=batch_tokens))["ekfac"])
    assert theirs == pytest.approx(ours, rel=1e-4)


def test_results_are_those_of_the_loader_and_of_run(done: Done) -> None:
    _, config = done
    ours, theirs = rayinfluence.run(config), rayinfluence.load_results(config.run, "ekfac")
    assert ours.table.equals(theirs.table)
    assert ours.groups.equals(theirs.groups)


def test_a_corpus_may_be_shared(
    finished: Done, tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    corpus = str(tmp_path / "corpus")
    config = tiny_run(tmp_path, corpus={"path": corpus})
    execute(config)
    assert not (tmp_path / "run" / "corpus").exists()
    # Another run uses the shards as they are and lists no documents.
    other = tiny_run(
        tmp_path, run=str(tmp_path / "other"), corpus={"path": corpus, "documents": []}
    )
    execute(other)
    ours = contents(finished[0] / "run")
    for run in ("run", "other"):
        theirs = contents(tmp_path / run)
        assert theirs == {k: body for k, body in ours.items() if not k.startswith("corpus/")}


def test_several_files_of_several_kinds(tmp_path: Path, execute: Execute, change: Change) -> None:
    import gzip

    config = tiny_run(tmp_path)
    lines = (tmp_path / "documents.jsonl").read_bytes().splitlines(keepends=True)
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"".join(lines[:20]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[20:40])))
    pq.write_table(
        pa.Table.from_pylist([json.loads(line) for line in lines[40:]]), folder / "c.parquet"
    )
    results = execute(change(config, corpus={"documents": [str(folder)]}))["ekfac"]
    assert results.manifest["corpus"]["shards"] == 3
    assert results.manifest["corpus"]["documents"] == 60
    assert len(results.proponents("q0")) == 5


def test_a_run_in_object_storage_has_the_bytes_of_a_local_one(
    tmp_path: Path, execute: Execute, change: Change, contents: Contents, s3: dict[str, Any]
) -> None:
    from rayinfluence.storage.store import Store

    scan = {"split_tokens": 1000, "scores": "dense"}
    local = tiny_run(tmp_path, 12, fit={"lanes": 2}, scan=scan)
    execute(local)
    inputs = Store("s3://bucket/inputs", s3)
    for name in ("documents.jsonl", "queries.jsonl"):
        inputs.write(name, (tmp_path / name).read_bytes())
    remote = change(
        local,
        run="s3://bucket/runs/a",
        queries="s3://bucket/inputs/queries.jsonl",
        corpus={"documents": ["s3://bucket/inputs/doc*.jsonl"], "path": "s3://bucket/corpora/b"},
        storage=s3,
    )
    execute(remote)
    run, corpus = Store(remote.run, s3), Store("s3://bucket/corpora/b", s3)
    for key, body in contents(tmp_path / "run").items():
        store = corpus if key.startswith("corpus/") else run
        assert store.read(key.removeprefix("corpus/")) == body, key
    results = rayinfluence.load_results(remote.run, **s3)
    assert len(results.proponents("q0")) > 2
    assert len(results.scores("q0")) == results.manifest["n_sequences"]


def test_a_glob_that_takes_the_queries_along_is_refused(
    tmp_path: Path, execute: Execute, change: Change
) -> None:
    config = tiny_run(tmp_path)
    with pytest.raises(RayInfluenceError, match=r"queries\.jsonl are not documents, more than 1"):
        execute(change(config, corpus={"documents": [f"{tmp_path}/*.jsonl"]}))
