"""`rayinfluence report`: an overview, some queries, files, and the page where it is due."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_results import both_sides, make_results

from rayinfluence.cli.reporting import glance
from rayinfluence.config import RunConfig
from rayinfluence.display.plain import plain_lines
from rayinfluence.errors import StorageError
from rayinfluence.report import Overview
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(done: tuple[Path, RunConfig]) -> Path:
    return done[0] / "run"


def test_all_queries_are_a_table_and_one_is_its_survivors(run: Path, say: Say) -> None:
    code, printed, errors = say("report", run)
    assert (code, errors) == (0, "")
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["q0", "q1", "q2"]
    assert "Opponents" not in printed
    code, printed, _ = say("report", run, "--query", "q1", "--top", 2)
    assert code == 0
    assert "Proponents" in printed
    assert printed.splitlines()[0] == "q1  by ekfac"
    assert sum(line.startswith(("1 ", "2 ", "3 ")) for line in printed.splitlines()) == 4


def test_as_json_it_is_one_object_and_nothing_else(run: Path, say: Say) -> None:
    results = Results.load(Store(str(run)))
    code, printed, errors = say("report", run, "--json", "--query", "q2", "--top", 1)
    found = json.loads(printed)
    assert code == 0
    assert errors == f"report: {run}/report.html\n"
    assert (found["format"], found["results"]) == (1, results.manifest["fingerprint"])
    assert (found["run"], found["methods"], found["method"]) == (str(run), ["ekfac"], "ekfac")
    assert [one["query_id"] for one in found["queries"]] == ["q0", "q1", "q2"]
    [hit] = found["survivors"]["q2"]["proponents"]
    assert hit["score"] == results.proponents("q2")[0].score
    assert hit["text"] == results.proponents("q2")[0].text


def test_survivors_are_written_as_csv(run: Path, say: Say, tmp_path: Path) -> None:
    path = tmp_path / "hits.csv"
    code, _, errors = say("report", run, "--csv", path)
    assert code == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    results = Results.load(Store(str(run)))
    assert len(rows) == results.survivors.num_rows
    assert f"{path}: {len(rows)} survivors" in errors
    code, printed, _ = say("report", run, "--csv", "-", "--query", "q0", "--top", 1)
    assert code == 0
    assert [row["rank"] for row in csv.DictReader(printed.splitlines())] == ["1", "1"]


def test_the_page_is_written_where_it_is_missing_or_older(run: Path, say: Say) -> None:
    page, manifest = run / "report.html", run / "results/manifest.json"
    say("report", run)
    page.write_text("kept")
    say("report", run)
    assert page.read_text() == "kept"
    say("report", run, "--page")
    assert page.read_text().startswith("<!doctype html>")
    page.write_text("old")
    os.utime(page, (manifest.stat().st_mtime - 10,) * 2)
    say("report", run)
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--query", "no\x1b[2J"], "--query no\u241b[2J: the results by ekfac have 3 queries"),
        (["--method", "bm25"], "--method bm25: the results are by ekfac"),
        (["--csv", "-", "--json"], "both for standard output"),
        (["--csv", "/"], "--csv /: it is a folder; name a file."),
        (["--csv", "."], "--csv .: it is a folder; name a file."),
        (["--set", "scan.top=3"], "is looked into as it is; name the YAML file"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(
    run: Path, say: Say, arguments: list[str], phrase: str
) -> None:
    code, printed, errors = say("report", run, *arguments)
    assert (code, printed) == (2, "")
    assert phrase in errors


def test_status_says_what_is_of_the_current_results(run: Path, say: Say) -> None:
    found = json.loads(say("status", run, "--json")[1])
    assert (found["format"], found["done"], found["current"]) == (1, True, True)
    stages = {one["stage"]: one for one in found["stages"]}
    factors, scan, results = stages["factors"], stages["scan"], stages["results"]
    assert all(one["in_results"] for one in (factors, scan, results))
    assert f"(factors {factors['fingerprint'][:12]}, damping_scale 0.1, rank 4)" in scan["remark"]
    assert results["remark"].endswith("; current")
    manifest = run / "results/manifest.json"
    values = json.loads(manifest.read_text())
    values["fingerprint"] = "0" * 32
    values["methods"]["ekfac"]["banks"] = []
    manifest.write_text(json.dumps(values))
    _, printed, _ = say("status", run)
    assert printed.splitlines()[0] == f"run {run}"
    assert "; not in the current results" in printed
    assert printed.splitlines()[-1].endswith(
        f"{results['remark'].partition(';')[0]}; ekfac; earlier"
    )


def test_a_run_is_quiet_where_it_is_asked_to_be(done: tuple[Path, RunConfig], say: Say) -> None:
    arguments = "--set", "scan.top=4", "--new-run", "--quiet", "--json"
    code, printed, errors = say("run", done[0] / "run", *arguments)
    assert code == 0, errors
    assert json.loads(printed)["complete"]
    assert all(line.startswith(("warning: ", "report: ")) for line in errors.splitlines())
    assert len(Results.load(Store(str(done[0] / "run"))).proponents("q0")) == 4


@pytest.mark.parametrize(
    "arguments", [[], ["--exclude", "source = 'alpha'"], ["--query", "q0", "--query", "q1"]]
)
def test_results_are_shown_to_who_may_not_write_beside_them(
    run: Path, say: Say, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    (run / "report.html").unlink(missing_ok=True)
    before = sorted(run.rglob("*"))

    def refused(self: Store, key: str, body: bytes, **_: object) -> None:
        raise StorageError(f"cannot write {self.url}/{key}: it is not allowed.")

    monkeypatch.setattr(Store, "write", refused)
    code, printed, errors = say("report", run, *arguments)
    assert code == 0
    assert "Proponents" in printed or "3 queries by ekfac" in printed
    assert "no page: cannot write" in errors
    assert "report: " not in printed
    assert "comparison: " not in printed
    found = json.loads(say("report", run, *arguments, "--json")[1])
    assert found["page"] is None
    assert [one["query_id"] for one in found["queries"]] == ["q0", "q1", "q2"]
    assert sorted(run.rglob("*")) == before
    code, _, errors = say("report", run, "--page")
    assert code == 5
    assert "error: cannot write" in errors


def test_what_a_terminal_cannot_write_is_written_otherwise(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe in an old encoding; CSV is UTF-8 wherever it goes."""
    from rayinfluence import cli

    def printed(*arguments: str) -> bytes:
        body = io.BytesIO()
        stream = io.TextIOWrapper(body, encoding="ascii", write_through=True)
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            cli.main(["report", str(run), *arguments])
        assert not ended.value.code
        return body.getvalue()

    assert b"gamma \\xb7 documents-" in printed()
    header, first, *_ = printed("--csv", "-").decode("utf-8").splitlines()
    assert header.lstrip("\ufeff").startswith('"query_id"')
    assert first.startswith('"q0"')


@pytest.mark.parametrize("top", [1, 3])
def test_of_the_only_query_as_many_survivors_are_shown_as_are_asked_for(top: int) -> None:
    results = make_results(both_sides(n=4))
    parts = glance({"ekfac": results}, results, Overview.of(results), top)
    ranks = [line.split()[0] for line in plain_lines(parts) if "books · document-" in line]
    assert ranks == [str(rank) for rank in range(1, top + 1)] * 2
