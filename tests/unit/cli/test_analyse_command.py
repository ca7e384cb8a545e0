"""`rayinfluence analyse`: what it prints and writes, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rayinfluence.config import RunConfig

Say = Callable[..., tuple[int, str, str]]
Finished = tuple[Path, RunConfig]
DOCS = Path(__file__).parents[3] / "docs"
#: The queries of the tiny run are nothing that its model knows.
ALL = ("--least", "-1000")


@pytest.mark.parametrize("what", ["tails", "layers"])
def test_findings_are_printed_and_written(
    what: str, finished: Finished, say: Say, tmp_path: Path
) -> None:
    run, out = finished[1].run, tmp_path / "found"
    code, printed, errors = say("analyse", run, "--what", what, *ALL, "--out", out)
    assert (code, errors) == (0, "")
    assert "Findings" in printed
    assert "One run is of one seed of training: no interval is over seeds." in printed
    assert printed.endswith(f"page: {out}/{what}.html\n")
    assert {path.name for path in out.iterdir()} == {f"{what}.json", f"{what}.html"}
    code, told, _ = say("analyse", run, "--what", what, *ALL, "--json")
    written = json.loads((out / f"{what}.json").read_text())
    assert json.loads(told) == {**written, "page": None}
    reference = (DOCS / "reference.md").read_text("utf-8")
    assert all(f"`{key}`" in reference for key in {**written, "page": None} if key != "format")


def test_too_few_scores_are_told(finished: Finished, say: Say) -> None:
    code, printed, _ = say("analyse", finished[1].run, "--what", "tails", *ALL)
    assert code == 0
    assert "more are needed: scan 49," in printed


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--what", "tail"], 2, "--what tail: it is tails, layers or copies."),
        (["--what", "tails", "--by", "kind"], 2, "--by: classes of queries are of --what layers."),
        (["--what", "tails", "--only", "kind"], 2, "--only kind: write KEY=VALUE"),
        (["--what", "tails", "--only", "kind=x"], 4, "--only kind=x: no query has that in its"),
        (["--what", "tails", "--pairs", "3"], 2, "--pairs: hits of other queries are a control"),
        (["--what", "layers", "--pairs", "3"], 4, "--pairs: no known query has a hit."),
        (["--what", "copies", *ALL], 4, "copies: no query has `passage` and `copies`"),
        (["--what", "tails", "--method", "bm25"], 2, "--method bm25: the run has ekfac."),
        (["--what", "layers", *ALL, "--by", "nope"], 4, "--by nope: no known query has it"),
        (["--what", "layers", "--least", "-1e-6"], 4, "has scores of 0 blocks for known queries"),
    ],
)
def test_what_cannot_be_analysed_is_refused(
    arguments: list[str], code: int, sentence: str, finished: Finished, say: Say
) -> None:
    found, _, errors = say("analyse", finished[1].run, *arguments)
    assert found == code
    assert sentence in errors


def test_a_report_by_some_layers_says_that_it_is_of_survivors(
    finished: Finished, say: Say, tmp_path: Path
) -> None:
    run = shutil.copytree(finished[1].run, tmp_path / "run")  # a page is written into it
    code, printed, errors = say("report", run, "--layers", "1", "--json")
    assert code == 0
    told = json.loads(printed)
    assert told["layers"]["blocks"] == [1]
    assert "Only survivors of the scan by all blocks are ranked again" in told["layers"]["sentence"]
    assert "/views/" in told["page"]
    code, _, errors = say("report", run, "--layers", "nope")
    assert (code, "--layers nope: write A-B" in errors) == (2, True)


def test_hits_of_others_are_scored_by_the_run_s_model(finished: Finished, say: Say) -> None:
    run = finished[1].run
    code, printed, errors = say("analyse", run, "--what", "layers", *ALL, "--pairs", 4, "--json")
    assert (code, errors) == (0, "")
    told = json.loads(printed)
    assert 1 <= told["n_pairs"] <= 4
    [everything, *_] = told["classes"]
    assert sum(one["mean"] for one in everything["pairs"]) == pytest.approx(1.0)
    assert everything["beyond_pairs"] is not None
    code, printed, _ = say("analyse", run, "--what", "layers", *ALL, "--pairs", 4)
    assert "Beside hits of other queries (shuffled pairs)" in printed
