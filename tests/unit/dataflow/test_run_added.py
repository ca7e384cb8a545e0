"""Queries and documents that are added, or go: what is done again, and what is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_runs import (
    Change,
    Contents,
    Done,
    Execute,
    add_query,
    of_query,
    partials,
    survivors,
    times,
)

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import RayInfluenceError
from rayinfluence.testing import tiny_run
from rayinfluence.testing.runs import write_documents

pytestmark = pytest.mark.runs


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
    # What shares a block of the second pass shares its batches, which decide the last bits.
    assert survivors(results) == pytest.approx(
        {key: score for key, score in scores.items() if key[0] != "q1"}, rel=1e-4
    )
    assert partials(run) == written
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    execute(config)
    assert before.items() <= contents(run).items()
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


def test_factors_of_two_kinds_that_are_of_fewer_shards_are_told_apart(
    tmp_path: Path, execute: Execute, change: Change
) -> None:
    config = tiny_run(tmp_path, scan={"methods": ["ekfac", "diagonal"]})
    execute(config)
    results = execute(add_documents(tmp_path, config, change))["ekfac"]
    told = [said for said in results.warnings if "when the corpus had 1 of its 2 shards" in said]
    assert [said.split(" were fitted")[0] for said in told] == [
        "the ekfac factors",
        "the diagonal factors",
    ]


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
    assert new == {"corpus", "scan", "rescored", "results"}
    assert "the ekfac factors were fitted when the corpus had 1 of its 2 shards" in said.getvalue()
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
    assert not any("factors" in warning for warning in again["warnings"])
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


@pytest.mark.parametrize("name", ["a-copy.jsonl", "z-copy.jsonl"])
def test_a_copy_that_is_added_to_a_folder_is_in_the_corpus(
    tmp_path: Path, change: Change, quiet: ProgressLog, name: str
) -> None:
    config = change(tiny_run(tmp_path), corpus={"documents": [f"{tmp_path}/*.jsonl"]})
    (tmp_path / "queries.jsonl").unlink()
    config = change(config, queries=None)
    with Run(config, quiet) as run:
        run.tokenize()
    shutil.copy(tmp_path / "documents.jsonl", tmp_path / name)
    with Run(config, quiet) as run:
        assert [Path(f["url"]).name for f in run.tokenize().manifest.files] == [
            "documents.jsonl",
            name,
        ]


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
    for settings in ({"context": 8}, {"row_group_tokens": 7}, {"text_column": "source"}):
        with pytest.raises(RayInfluenceError, match=r"tokenised with .* other settings"):
            execute(change(config, corpus=settings))
