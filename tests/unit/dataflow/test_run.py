"""Whole runs on one thread: what they write, and that no settings mix."""

import json
import re
import shutil
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from whole_runs import (
    TABLES,
    Change,
    Contents,
    Done,
    Execute,
    partials,
    results_of,
    survivors,
    times,
)

import rayinfluence
from rayinfluence.dataflow.compute.replica import NUMERICS_VERSION
from rayinfluence.dataflow.jobs import eigen as eigen_jobs
from rayinfluence.dataflow.stages import fitting
from rayinfluence.errors import ConfigError, RayInfluenceError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

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
                assert hit.metadata["year"] == document["year"]
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
    assert {"tokenize", "covariance", "moments", "scan", "rescore"} <= manifest["stages"].keys()


def test_the_tables_hold_neither_times_nor_places(finished: Done) -> None:
    folder, _ = finished
    for name in TABLES:
        path = results_of(folder / "run") / name
        body = path.read_bytes()
        assert str(folder).encode() not in body
        table = pq.read_table(path)
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
    (results_of(folder / "run") / name).unlink()
    execute(config)
    assert contents(folder / "run") == before


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
        {"objective": {"reduction": "mean"}},
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


OLD_RULE = "they are an earlier version's, which stated errors that are too small"


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        (("stopping",), OLD_RULE),
        (("numerics", "loss"), 'numerics.loss: "all", was absent'),
        (("numerics", "version"), f"numerics.version: {NUMERICS_VERSION}, was 1"),
        (("fit", "error_bound"), "fit.error_bound: .*, was absent"),
    ],
    ids=lambda one: one[-1] if isinstance(one, tuple) else "",
)
def test_factors_of_an_earlier_version_are_refused_with_what_helps_or_fitted_again(
    done: Done, execute: Execute, said: Any, lacks: tuple[str, ...], words: str
) -> None:
    """Setting a configuration back does not bring a version back."""
    folder, config = done
    [fitted] = (folder / "run" / "factors").glob("*/manifest.json")
    manifest = unsealed(fitted)
    *above, last = lacks
    part = reduce(dict.__getitem__, above, manifest["parts"])
    del part[last]
    if last == "version":
        part[last] = 1
    fitted.write_text(json.dumps(manifest))
    fitted.parent.rename(fitted.parent.with_name(digest(manifest["parts"])))
    with pytest.raises(ConfigError, match=f"factors that were made otherwise: {words}") as refused:
        execute(config)
    assert "That is another version of rayinfluence" in str(refused.value)
    assert "Add --new-run" in str(refused.value)
    assert "Set the configuration back" not in str(refused.value)
    execute(config, new_run=True)
    assert re.search(f"fitted anew: {words}", said.getvalue())


def test_a_scan_of_an_earlier_version_is_refused_with_what_helps(
    done: Done, execute: Execute
) -> None:
    folder, config = done
    [scanned] = (folder / "run" / "scan").glob("*/manifest.json")
    manifest = unsealed(scanned)
    manifest["base"]["numerics"]["version"] = 1
    scanned.write_text(json.dumps(manifest))
    decides = {part: manifest[part] for part in ("base", "query_digests")}
    scanned.parent.rename(scanned.parent.with_name(digest(decides)))
    with pytest.raises(ConfigError, match=r"a scan by ekfac .*was 1\. That is another version"):
        execute(config)


def unsealed(path: Path) -> dict[str, Any]:
    """A manifest, to be changed."""
    manifest: dict[str, Any] = json.loads(path.read_text())
    del manifest["seal"]
    return manifest


# Kinds of runs.


@pytest.mark.parametrize("fits", [True, False])
def test_a_device_that_decomposes_sooner_makes_the_same_factors(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    def written(folder: Path) -> dict[str, bytes]:
        execute(tiny_run(folder))
        root = folder / "run" / "factors"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.safe*")}

    expected = written(tmp_path / "in tasks")
    monkeypatch.setattr(fitting, "_DECOMPOSES", {"cpu"})
    made, decomposed = [], eigen_jobs.decomposed

    def on_a_device(sums: Any, *given: Any) -> Any:
        made.append(given)
        if not fits and len(made) % 2:
            raise torch.OutOfMemoryError
        return decomposed(sums, *given)

    monkeypatch.setattr(eigen_jobs, "decomposed", on_a_device)
    assert written(tmp_path / "on replicas") == expected
    assert made


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
    # In one second pass, too, whose batches decide the last bits of its scores.
    again = ("rescored/", "results/")
    alone = {k: v for k, v in contents(finished[0] / "run").items() if not k.startswith(again)}
    assert alone.items() <= contents(tmp_path / "run").items()
    expected = survivors(rayinfluence.load_results(finished[1].run))
    assert survivors(results["ekfac"]) == pytest.approx(expected, rel=1e-4)
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
    with pytest.raises(RayInfluenceError, match=r"queries\.jsonl has no key 'text' in any row"):
        execute(change(config, corpus={"documents": [f"{tmp_path}/*.jsonl"]}))


#: Prints how many threads reading results adds to a process.
READING = """
import sys
from pathlib import Path
import pyarrow.parquet
import rayinfluence
def threads():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return sum("jemalloc" not in name for name in names)  # the allocator has one of its own
before = threads()
results = rayinfluence.load_results(sys.argv[1])
assert len(results.proponents("q0", 5)) == 5
assert results.statistics.num_rows and results.groups.num_rows
print(threads() - before)
"""


def test_results_are_decoded_on_the_thread_that_asks(done: Done) -> None:
    """Pyarrow's threads let go of Python's bytes later, and abort a process that ends meanwhile."""
    command = [sys.executable, "-c", READING, done[1].run]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(found.stdout) <= 1  # that which reads ahead; those that decode are more
