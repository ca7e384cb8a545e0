from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stage_names import STAGES
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.status import StageStatus, _pause, clean, status
from rayinfluence.errors import DamagedError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

Done = tuple[Path, RunConfig]


def stages(run: Path) -> dict[str, list[StageStatus]]:
    store = Store(str(run))
    found: dict[str, list[StageStatus]] = {}
    for one in status(store, store / "corpus").stages:
        found.setdefault(one.stage, []).append(one)
    return found


def counts(run: Path) -> dict[str, tuple[int, int | None]]:
    return {name: (ours[0].done, ours[0].total) for name, ours in stages(run).items()}


def test_an_empty_folder_has_begun_nothing(tmp_path: Path) -> None:
    assert counts(tmp_path) == {
        "corpus": (0, None),
        "factors": (0, None),
        "scan": (0, None),
        "results": (0, 1),
    }
    assert stages(tmp_path)["factors"][0].remark == "not begun"


def test_status_follows_the_stages(tmp_path: Path, quiet: ProgressLog) -> None:
    config, run_folder = tiny_run(tmp_path), tmp_path / "run"
    with Run(config, quiet) as run:
        run.tokenize()
        assert counts(run_folder)["corpus"] == (1, 1)
        n_sequences, n_tokens = run.corpus.n_sequences, run.corpus.n_tokens
        remark = stages(run_folder)["corpus"][0].remark
        size = f"{n_sequences:,} sequences, {n_tokens:,} tokens"
        assert remark == f"{size}; left out: 2 last chunks of one token"
        assert counts(run_folder)["factors"] == (0, None)
        run.fit()
        assert counts(run_folder)["factors"] == (1, 1)
        assert f"fitted on {n_sequences} sequences" in stages(run_folder)["factors"][0].remark
        assert counts(run_folder)["scan"] == (0, None)
        run.scan()
        n_splits = len(run.corpus.plan(120))
    assert counts(run_folder) == {
        "corpus": (1, 1),
        "factors": (1, 1),
        "scan": (n_splits, n_splits),
        "results": (1, 1),
    }
    assert "3 queries by ekfac" in stages(run_folder)["scan"][0].remark
    assert stages(run_folder)["results"][0].remark.endswith(": 3 queries; ekfac; current")


def test_a_fit_under_way_counts_its_lanes(done: Done) -> None:
    run = done[0] / "run"
    [folder] = (run / "factors").iterdir()
    (folder / "manifest.json").unlink()
    last = max((folder / "moments").iterdir())
    (last / "lane-001.safetensors").unlink()
    [fit] = stages(run)["factors"]
    assert (fit.done, fit.total) == (0, 1)
    number = last.name.removeprefix("round-")
    expected = f"3 covariance and 2 moment lanes committed of sample {number}"
    assert expected in fit.remark


def test_a_scan_under_way_counts_its_splits_and_its_rate(done: Done) -> None:
    import os

    run = done[0] / "run"
    partials = sorted(run.glob("scan/*/partials/*"))
    for path in partials[4:]:
        path.unlink()
    for second, path in enumerate(partials[:4]):
        os.utime(path, (1000 + second, 1000 + second))
    [scan] = stages(run)["scan"]
    assert (scan.done, scan.total) == (4, len(partials))
    assert "tokens/s, about" in scan.remark
    assert "s left" in scan.remark
    # Partials of splits that are no longer in the corpus do not count.
    partials[0].rename(partials[0].with_name("0" * 32 + ".safetensors"))
    assert stages(run)["scan"][0].done == 3


def test_every_bank_and_every_fit_has_a_line(
    done: Done, execute: Callable[..., Any], change: Callable[..., RunConfig]
) -> None:
    folder, config = done
    execute(change(config, seed=1, scan={"methods": ["ekfac", "kfac"]}), new_run=True)
    found = stages(folder / "run")
    assert len(found["factors"]) == 2
    assert len(found["scan"]) == 3
    assert found["results"][0].remark.endswith("3 queries; ekfac, kfac; current")


@pytest.mark.parametrize(
    "pattern", ["results/manifest.json", "factors/*/manifest.json", "scan/*/manifest.json"]
)
def test_damaged_manifests_are_named(done: Done, pattern: str) -> None:
    [path] = (done[0] / "run").glob(pattern)
    path.write_text("{")
    with pytest.raises(DamagedError, match=r"manifest\.json is damaged: .* Delete it"):
        stages(done[0] / "run")


def top(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


@pytest.mark.parametrize(
    ("stage", "gone"),
    [
        ("corpus", {"corpus"}),
        ("factors", {"factors", "preflight", "models"}),
        ("scan", {"queries", "scan", "rescored"}),
        ("results", {"results", "report.html", "report", "stages.json"}),
    ],
)
def test_clean_deletes_a_stage_and_nothing_else(done: Done, stage: str, gone: set[str]) -> None:
    run = done[0] / "run"
    (run / "report.html").write_text("a page")
    (run / "report").mkdir(exist_ok=True)
    (run / "report" / "q0123456789ab.html").write_text("another")
    before = top(run)
    n_files = sum(1 for name in gone for p in [run / name, *(run / name).rglob("*")] if p.is_file())
    assert clean(Store(str(run)), [stage]) == n_files > 0
    assert before - top(run) == gone
    assert clean(Store(str(run)), [stage]) == 0


def test_the_stages_of_clean_are_all_that_a_run_writes(done: Done) -> None:
    run = done[0] / "run"
    clean(Store(str(run)), list(STAGES))
    assert top(run) == {"config.json"}


def test_clean_deletes_nothing_that_the_run_did_not_write(done: Done) -> None:
    run = done[0] / "run"
    theirs = [
        run / "models" / "mine" / "model.safetensors",
        run / "queries" / "mine.jsonl",
        run / "corpus" / "raw.jsonl",
        run / "results" / "notes.txt",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert clean(Store(str(run)), list(STAGES)) > 10
    left = {path for path in run.rglob("*") if path.is_file()}
    assert left == {*theirs, run / "config.json"}


def test_clean_deletes_a_corpus_of_either_layout(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for key in ("log/00000000.json", "fragments/a.json", "rolled/b.json", "shards/c.parquet"):
        store.write(f"corpus/{key}", b"")
    store.write("corpus/manifest.json", b"")
    assert clean(store, ["corpus"]) == 5
    assert top(tmp_path) == set()


def test_clean_leaves_a_shared_corpus_alone(tmp_path: Path, execute: Callable[..., Any]) -> None:
    config = tiny_run(tmp_path, corpus={"path": str(tmp_path / "shared")})
    execute(config)
    clean(Store(config.run), ["corpus"])
    assert (tmp_path / "shared" / "log" / "00000000.json").exists()


def test_status_of_a_run_in_object_storage(done: Done, s3: dict[str, Any]) -> None:
    local, remote = Store(str(done[0] / "run")), Store("s3://bucket/run", s3)
    for key in local.list():
        remote.write(key, local.read(key))
    ours = [(one.stage, one.done, one.total) for one in status(local, local / "corpus").stages]
    theirs = [(one.stage, one.done, one.total) for one in status(remote, remote / "corpus").stages]
    assert ours == theirs
    assert clean(remote, ["scan", "results"]) > 10
    assert all(not key.startswith(("scan/", "results/", "queries/")) for key in remote.list())


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], 0),
        ([5.0], 0),
        ([0.0, 30.0, 60.0, 90.0], 0),
        ([0.0, 1.0, 2.0, 4000.0, 4001.0, 4002.0], 3),
        ([0.0, 1.0, 900.0, 901.0, 3000.0, 3001.0, 3002.0, 3003.0], 4),
        ([0.0, 1.0, 50.0, 51.0], 0),  # no longer than what a worker may take
    ],
)
def test_a_pause_is_no_part_of_the_rate(times: list[float], expected: int) -> None:
    assert _pause(times) == expected
