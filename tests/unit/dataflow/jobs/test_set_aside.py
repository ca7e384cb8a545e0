"""Splits that cannot be scored are set aside, said, and tried again by the next run."""

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

import rayinfluence
from rayinfluence import cli
from rayinfluence.config import RunConfig
from rayinfluence.corpus.splits import read_split
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.jobs import scan as job_module
from rayinfluence.dataflow.jobs.scan import Pending, Settled
from rayinfluence.dataflow.jobs.watch import LocalWatch
from rayinfluence.dataflow.layout import partial_key
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.status import status
from rayinfluence.errors import IncompleteResultsWarning, StageError, StorageError
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Execute = Callable[[RunConfig], Any]
Contents = Callable[[Path], dict[str, bytes]]


def damage(shard: Path) -> bytes:
    """Flip a bit in a shard's first row group; returns what it was."""
    body = shard.read_bytes()
    changed = bytearray(body)
    changed[200] ^= 0xFF
    shard.write_bytes(changed)
    return body


@pytest.fixture
def fitted(tmp_path: Path, execute: Execute) -> RunConfig:
    """A run that is done but for its scan."""
    config = tiny_run(tmp_path)
    with Run(config) as run:
        run.tokenize()
        run.fit()
    return config


def test_a_damaged_split_is_set_aside_and_scored_when_it_is_restored(
    fitted: RunConfig,
    tmp_path: Path,
    contents: Contents,
    execute: Execute,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(fitted.run)
    [shard] = (folder / "corpus" / "shards").iterdir()
    whole = damage(shard)
    (tmp_path / "run.yaml").write_text(fitted.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        cli.main(["scan", str(tmp_path / "run.yaml")])
    assert ended.value.code == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "complete but for 1 splits, the first of them split 0 (row groups 0 to " in said
    assert f"{shard.name} cannot be used" in said
    manifest = json.loads((folder / "results/manifest.json").read_text())
    [aside] = manifest["set_aside"]
    assert "cannot be used" in aside["reason"]
    assert any(aside["name"] in warning for warning in manifest["warnings"])
    store = Store(fitted.run)
    (scanning,) = [one for one in status(store, store / "corpus").stages if one.stage == "scan"]
    assert scanning.total == scanning.done + 1
    assert scanning.remark.endswith("1 set aside")
    scanned = manifest["methods"]["ekfac"]["scanned_sequences"]
    assert 0 < scanned < manifest["n_sequences"]
    done = {path: path.stat().st_mtime_ns for path in folder.glob("scan/*/partials/*")}

    shard.write_bytes(whole)
    execute(fitted)
    for path, written in done.items():
        assert path.stat().st_mtime_ns == written, "a split that was done was scored again"
    (tmp_path / "undisturbed").mkdir()
    undisturbed = tiny_run(tmp_path / "undisturbed")
    execute(undisturbed)
    ours, theirs = contents(folder), contents(Path(undisturbed.run))
    # What survived among fewer was scored again, too, and its results are kept.
    assert theirs.items() <= ours.items()
    assert all(key.startswith(("rescored/", "results/")) for key in ours.keys() - theirs.keys())


def test_results_that_lack_splits_say_so_in_python(
    fitted: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    [shard] = (Path(fitted.run) / "corpus" / "shards").iterdir()
    whole = damage(shard)
    for load in (lambda: rayinfluence.run(fitted), lambda: rayinfluence.load_results(fitted.run)):
        with pytest.warns(IncompleteResultsWarning, match=r"lack 1 splits.*split 0 .*cannot be"):
            results = load()
        assert not results.complete
        assert any("cannot be used" in warning for warning in results.warnings)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the command line says it in its own way
        with pytest.raises(SystemExit):
            cli.main(["report", fitted.run])
    assert "complete but for 1 splits" in capsys.readouterr().err
    shard.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error", IncompleteResultsWarning)
        assert rayinfluence.run(fitted).complete
        (told,) = rayinfluence.load_results(fitted.run).warnings
        assert told.startswith("the model would hardly say the completions of 3 of 3 queries")


def test_storage_that_fails_blames_no_split(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any) -> None:
        raise StorageError("cannot write here: access denied.")

    monkeypatch.setattr("rayinfluence.dataflow.jobs.scan.write_partial", denied)
    with pytest.raises(StorageError, match="access denied"):
        execute(fitted)
    assert not list(Path(fitted.run).glob("scan/*/aside/*"))


def test_many_failures_end_the_scan(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def broken(*_: Any) -> None:
        tried.append(1)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(job_module, "score_split", broken)
    with pytest.raises(StageError, match=r"4 of \d+ splits could not be scored.*illegal memory"):
        execute(fitted)
    assert len(tried) <= 5  # one is scored while another is set aside


class Restarted(LocalWatch):
    """The watch of a worker whose predecessors died."""

    def __init__(self, starts: dict[str, int]) -> None:
        super().__init__(lambda tokens: None)
        self._starts.update(starts)


class Captured(Exception):
    """Carries what a runner was asked to scan."""


@pytest.fixture
def scan_job(fitted: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A replica, a scan's job and the splits that it lacks."""

    def capture(self: Any, job: Any, pending: Any, *_: Any) -> None:
        raise Captured(self._ready(), job, pending)

    monkeypatch.setattr("rayinfluence.dataflow.runners.inline.InlineRunner.scan", capture)
    with pytest.raises(Captured) as caught, Run(fitted) as run:
        run.scan()
    replica, job, pending = caught.value.args
    job.prepare(replica)
    return replica, job, pending


def scored(found: list[Settled]) -> list[tuple[int, str | None]]:
    return [(one.split.index, one.reason) for one in found]


def test_a_split_whose_workers_died_twice_is_not_begun_again(scan_job: Any) -> None:
    replica, job, pending = scan_job
    victim = pending[1].split
    watch = Restarted({victim.digest: 2})
    found = list(job.run(replica, pending[:3], watch))
    assert scored(found) == [
        (0, None),
        (1, "the 2 workers that began it died"),
        (2, None),
    ]
    store = job.operands[0].plan.store
    assert json.loads(store.read(f"aside/{victim.digest}.json"))["name"] == victim.name
    assert sorted(store.list("partials")) == sorted(
        partial_key(pending[i].split.digest) for i in (0, 2)
    )


def test_a_retried_bundle_passes_over_what_is_committed(
    scan_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, job, pending = scan_job
    bundle: list[Pending] = pending[:4]
    list(job.run(replica, bundle[:2], Restarted({})))
    begun: list[str] = []

    def read(store: Any, split: Any) -> Any:
        begun.append(split.digest)
        return read_split(store, split)

    monkeypatch.setattr(job_module, "read_split", read)
    watch = Restarted({item.split.digest: 1 for item in bundle[:3]})
    assert [reason for _, reason in scored(list(job.run(replica, bundle, watch)))] == [None] * 4
    assert begun == [item.split.digest for item in bundle[2:]]


def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with what is done to splits."""
    found: list[str] = []
    write = job_module.write_partial

    def scoring(replica: Any, banks: Any, table: Any, *rest: Any) -> Any:
        found.append("score")
        return score_split(replica, banks, table, *rest)

    def writing(*args: Any) -> None:
        seen = len(found)
        deadline = time.monotonic() + 1
        while len(found) == seen and time.monotonic() < deadline:
            time.sleep(0.01)  # the next split may be under way
        found.append("write")
        write(*args)

    monkeypatch.setattr(job_module, "score_split", scoring)
    monkeypatch.setattr(job_module, "write_partial", writing)
    return found


def test_a_split_is_committed_while_the_next_is_scored(
    scan_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, job, pending = scan_job
    found = steps(monkeypatch)
    list(job.run(replica, pending[:3], Restarted({})))
    assert found == ["score", "score", "write", "score", "write", "write"]


def test_beside_a_split_that_may_have_killed_a_worker_nothing_is_done(
    scan_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica, job, pending = scan_job
    found = steps(monkeypatch)
    list(job.run(replica, pending[:3], Restarted({pending[1].split.digest: 1})))
    assert found == ["score", "write"] * 3


def test_all_that_is_scored_of_a_dense_scan_can_be_read(
    tmp_path: Path, fitted: RunConfig, execute: Execute, change: Callable[..., RunConfig]
) -> None:
    config = change(fitted, scan={"scores": "dense"})
    [shard] = (Path(config.run) / "corpus" / "shards").iterdir()
    damage(shard)
    scores = execute(config)["ekfac"].scores("q0")
    manifest = json.loads(Path(config.run, "results/manifest.json").read_text())
    assert len(manifest["set_aside"]) == 1
    assert len(scores) == manifest["methods"]["ekfac"]["scanned_sequences"]


def test_a_split_that_fails_for_a_new_query_stays_in_what_was_scanned(
    fitted: RunConfig, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = execute(fitted)["ekfac"]
    lines = Path(str(fitted.queries)).read_text().splitlines()
    new = {**json.loads(lines[0]), "query_id": "new", "prompt": "w1 w2"}
    Path(str(fitted.queries)).write_text("\n".join([*lines, json.dumps(new)]) + "\n")

    def broken(replica: Any, banks: Any, table: Any, *rest: Any) -> Any:
        if table["sequence_id"][0].as_py() == 0:
            raise RuntimeError("out of memory")
        return score_split(replica, banks, table, *rest)

    monkeypatch.setattr(job_module, "score_split", broken)
    after = execute(fitted)["ekfac"]
    assert len(after.manifest["set_aside"]) == 1
    old = after.table.filter(pc.not_equal(after.table["query_id"], "new"))
    assert old.select(before.table.column_names).equals(before.table)
    counts = {row["query_id"]: row["n_sequences"] for row in after.statistics.to_pylist()}
    assert counts["new"] < counts["q0"]
