"""`status --watch` ends: when a run is done, and when nobody works on it any more."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.status import RunStatus, status
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

Say = Callable[..., tuple[int, str, str]]
Done = tuple[Path, RunConfig]
YESTERDAY = time.time() - 86400


def settings(run: Path, **values: Any) -> None:
    """What the configuration in a run directory says else."""
    path = run / "config.json"
    before = path.stat().st_mtime
    config = json.loads(path.read_text())
    for section, inner in values.items():
        config[section] = {**config[section], **inner} if isinstance(inner, dict) else inner
    path.write_text(json.dumps(config))
    os.utime(path, (before, before))


def age(run: Path, when: float, *patterns: str) -> None:
    """Set the time at which files were written."""
    for pattern in patterns or ("**/*",):
        for path in run.glob(pattern):
            os.utime(path, (when, when))


def abandon_fit(run: Path) -> None:
    [folder] = (run / "factors").iterdir()
    (folder / "manifest.json").unlink()
    for name in ("scan", "queries", "results"):
        shutil.rmtree(run / name)


def abandon_scan(run: Path) -> None:
    for partial in sorted(run.glob("scan/*/partials/*"))[3:]:
        partial.unlink()
    shutil.rmtree(run / "results")


def abandon_tokenize(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def abandon_results(run: Path) -> None:
    (run / "results" / "manifest.json").unlink()


def look(run: Path) -> RunStatus:
    return status(Store(str(run)), Store(str(run)) / "corpus")


@pytest.mark.parametrize("abandon", [abandon_tokenize, abandon_fit, abandon_scan, abandon_results])
def test_watching_a_run_that_was_abandoned_in_any_stage_says_since_when_and_ends(
    done: Done, say: Say, abandon: Callable[[Path], None]
) -> None:
    run = done[0] / "run"
    settings(run, runner={"stall_seconds": 0.5})
    abandon(run)
    age(run, YESTERDAY)
    started = time.monotonic()
    code, printed, errors = say("status", run, "--watch", "--every", "0.1")
    assert 0.4 < time.monotonic() - started < 60
    assert code == 7
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(YESTERDAY))
    assert f"nothing has been written since {when} (24 h ago)" in printed
    assert f"nothing has been written to {run} since {when} (24 h ago)" in errors
    assert "the same command goes on with the run" in errors
    once = say("status", run)
    assert once[0] == 0
    assert f"nothing has been written since {when}" in once[1]


def test_watching_a_run_that_never_begins_ends(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path, runner={"stall_seconds": 0.3})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump()))
    code, printed, errors = say("status", path, "--watch", "--every", "0.1")
    assert code == 7
    assert printed.count("not begun") >= 4
    assert "nothing has been written to" in errors
    assert "yet" in errors


def test_a_run_that_moves_is_watched_for_as_long_as_it_does(done: Done, say: Say) -> None:
    run = done[0] / "run"
    settings(run, runner={"stall_seconds": 1.5})
    body = (run / "results" / "manifest.json").read_bytes()
    abandon_scan(run)
    age(run, YESTERDAY)
    partial = next(run.glob("scan/*/partials/*"))

    def work() -> None:
        for number in range(6):
            time.sleep(0.5)
            (partial.parent / f"{number:032}.safetensors").write_bytes(b"")
            # The clock of whoever writes may be behind.
            age(run, YESTERDAY, "scan/*/partials/*")
        Store(str(run)).write("results/manifest.json", body)

    worker = threading.Thread(target=work)
    worker.start()
    code, printed, errors = say("status", run, "--watch", "--every", "0.2")
    worker.join()
    assert (code, errors) == (0, "")
    assert "3 queries; ekfac" in printed
    assert "left behind" in printed


@pytest.mark.parametrize("what", ["fit", "scan"])
def test_what_was_left_behind_before_the_results_keeps_nobody_waiting(
    done: Done, say: Say, what: str
) -> None:
    run = done[0] / "run"
    folder, kind = ("factors", "covariance/*/*") if what == "fit" else ("scan", "partials/*")
    [finished] = (run / folder).iterdir()
    other = finished.with_name("ab" * 16)
    shutil.copytree(finished, other)
    if what == "fit":
        (other / "manifest.json").unlink()
    else:
        next(other.glob(kind)).unlink()
    age(run, YESTERDAY, f"{folder}/{other.name}/**/*")
    assert look(run).is_done(time.time(), 1800)
    [line] = [one for one in look(run).stages if other.name[:12] in one.remark]
    assert not line.ended
    assert line.remark.endswith("; left behind, older than the results")
    code, printed, _ = say("status", run, "--watch")
    assert code == 0
    assert "nothing has been written" not in printed
    # It was taken up again.
    age(run, time.time() + 5, f"{folder}/{other.name}/{kind}")
    assert not look(run).is_done(time.time() + 10, 1800)
    assert "left behind" not in str(look(run))


def test_results_without_factors_keep_nobody_waiting(done: Done) -> None:
    """As of a method that needs none."""
    run = done[0] / "run"
    shutil.rmtree(run / "factors")
    assert look(run).is_done(time.time(), 1800)


def test_results_of_other_settings_do_not_end_the_watch_of_a_new_run(done: Done) -> None:
    run, now = done[0] / "run", time.time()
    assert look(run).is_done(now, 1800)
    settings(run, runner={"actors": 7}, storage={"region": "x"})
    assert look(run).is_done(now, 1800)
    settings(run, seed=1)
    age(run, YESTERDAY)
    age(run, now - 100, "config.json")
    assert not look(run).is_done(now, 1800)
    # It found that there was nothing to do, and wrote nothing.
    assert look(run).is_done(now, 99)


def test_reports_and_what_users_keep_there_are_no_work(done: Done) -> None:
    run = done[0] / "run"
    (run / "notes.txt").write_text("mine")
    (run / "models" / "mine").mkdir()
    (run / "models" / "mine" / "a.txt").write_text("mine")
    (run / "report").mkdir()
    for name in ("report.html", "report/q0123456789ab.html", "plan.json"):
        (run / name).write_text("")
    age(run, YESTERDAY)
    age(run, time.time(), "notes.txt", "report.html", "report/*", "plan.json", "models/mine/*")
    assert look(run).written == pytest.approx(YESTERDAY, abs=1)


def test_work_on_a_corpus_elsewhere_is_seen(done: Done) -> None:
    folder = done[0]
    shutil.move(folder / "run" / "corpus", folder / "shared")
    age(folder / "run", YESTERDAY)
    age(folder / "shared", YESTERDAY + 3600)
    found = status(Store(str(folder / "run")), Store(str(folder / "shared")))
    assert found.written == pytest.approx(YESTERDAY + 3600, abs=1)


def test_what_others_print_is_not_in_an_object(
    finished: Done, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talks(*told: Any) -> RunStatus:
        print("a line of somebody's function")
        return status(*told)

    monkeypatch.setattr("rayinfluence.dataflow.status.status", talks)
    code, out, err = say("status", str(finished[0] / "run"), "--json")
    assert code == 0
    assert json.loads(out)["format"] == 1
    assert "a line of somebody's function" in err
