"""`rayinfluence analyse`: what it prints and writes, and what it refuses."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import rayinfluence
from rayinfluence.analysis.findings import (
    COPIES_LEAD,
    FINDINGS,
    LESS_LITERAL,
    ORDER,
    RELEVANT,
)
from rayinfluence.config import RunConfig
from rayinfluence.dataflow import places
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

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


PARTS = """queries:
  q0:
    forward: [w3 w9 w2 w11 w3]
    completion removed: [w3 w9 w2]
    reversed: [{text: w1 w11 w3 w9 w2, beginning: w1 w11}]
  q1:
    forward: [w5 w6 w7]
    reversed: [{text: w1 w7 w6 w5, beginning: w1 w7}]
"""


def test_the_order_of_words_is_scored_with_the_run_s_queries(
    finished: Finished, say: Say, tmp_path: Path
) -> None:
    run, file, out = finished[1].run, tmp_path / "parts.yaml", tmp_path / "found"
    file.write_text(PARTS)
    asked = ("analyse", run, "--what", "order", "--probes", file, *ALL)
    code, printed, _ = say(*asked, "--out", out)
    assert code == 0
    assert printed.endswith(f"page: {out}/order.html\n")
    written = json.loads((out / "order.json").read_text())
    code, told, _ = say(*asked, "--json")
    assert json.loads(told) == {**written, "page": None}
    reference = (DOCS / "reference.md").read_text("utf-8")
    assert all(f"`{key}`" in reference for key in {**written, "page": None} if key != "format")
    # As `probe` has it, query by query.
    probed = rayinfluence.probe(run, ["w3 w9 w2 w11 w3", "w5 w6 w7"], queries=["q0", "q1"])
    wanted = [probed.scores["q0"][0].score, probed.scores["q1"][1].score]
    assert [written["queries"][q]["forward"] for q in ("q0", "q1")] == pytest.approx(wanted)


def test_all_that_a_run_can_be_asked_is_in_one_table(
    finished: Finished, say: Say, tmp_path: Path
) -> None:
    run, file, out = finished[1].run, tmp_path / "parts.yaml", tmp_path / "found"
    file.write_text(PARTS)
    code, printed, errors = say("analyse", run, *ALL, "--out", out)
    assert (code, errors) == (0, "")
    assert printed.endswith(f"page: {out}/findings.html\n")
    written = json.loads((out / "findings.json").read_text())
    told = {one["finding"]: one for one in written["verdicts"]}
    assert [*told] == [one for some in FINDINGS.values() for one in some]
    reasons = {
        ORDER: "--probes FILE",
        COPIES_LEAD: "no query has `passage` and `copies`",
        LESS_LITERAL: "name runs of models of other sizes",
        RELEVANT: "rayinfluence review",
    }
    for finding, why in reasons.items():
        assert (told[finding]["word"], why in told[finding]["why"]) == ("not asked", True)
        assert finding in printed
    asked = {kind for kind in FINDINGS if written.get(kind) is not None}
    assert asked == {"tails", "layers"}
    for kind in asked:
        alone = json.loads(say("analyse", run, "--what", kind, *ALL, "--json")[1])
        assert {**written[kind], "page": None, "format": alone["format"]} == alone
        assert all(told[one["finding"]] == one for one in alone["verdicts"])
    page = (out / "findings.html").read_text()
    assert all(one in page for one in ("tails: Means over queries", "layers: Shares by blocks"))
    with_texts = json.loads(say("analyse", run, *ALL, "--probes", file, "--json")[1])
    assert with_texts["order"]["what"] == "order"
    reference = (DOCS / "reference.md").read_text("utf-8")
    assert all(f"`{key}`" in reference for key in with_texts if key not in ("format", *FINDINGS))


def test_pictures_are_files_beside_the_page(finished: Finished, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "found"
    code, _, errors = say("analyse", finished[1].run, *ALL, "--png", "--out", out)
    assert (code, errors) == (0, "")
    names = {path.name for path in out.iterdir()}
    assert names == {"findings.json", "findings.html", "top-shares.png", "depth.png"}
    assert all(path.read_bytes()[1:4] == b"PNG" for path in out.glob("*.png"))


def test_that_nothing_has_a_picture_is_said(finished: Finished, say: Say, tmp_path: Path) -> None:
    out = tmp_path / "found"
    code, _, errors = say("analyse", finished[1].run, "--least", "0", "--png", "--out", out)
    assert (code, "--png: nothing that was asked has a picture" in errors) == (0, True)
    assert {path.name for path in out.iterdir()} == {"findings.json", "findings.html"}


def test_the_first_run_is_asked_and_sizes_are_of_all(
    finished: Finished, say: Say, tmp_path: Path
) -> None:
    run = finished[1].run
    copied = shutil.copytree(run, tmp_path / "run")
    code, printed, _ = say("analyse", run, copied, *ALL, "--json")
    told = {one["finding"]: one["why"] for one in json.loads(printed)["verdicts"]}
    assert code == 0
    assert "are of one model, which would count twice" in told[LESS_LITERAL]


@pytest.mark.runs
def test_pages_go_where_the_results_are(say: Say, s3: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_run(tmp_path, n_documents=20, run="s3://bucket/run", storage=s3)
    rayinfluence.run(config)
    file, server = tmp_path / "run.yaml", ("--endpoint-url", s3["endpoint_url"])
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    store = Store("s3://bucket", config.storage.options("s3://bucket"))
    # The file has the server, and an address alone takes it from the option.
    for place, asked in enumerate(([file], ["s3://bucket/run", *server])):
        out = f"s3://bucket/found-{place}"
        code, _, errors = say("analyse", *asked, "--what", "tails", *ALL, "--out", out)
        assert (code, errors) == (0, "")
        assert store.exists(f"found-{place}/tails.html")
        code, _, errors = say("plot", *asked, "--kind", "tail", "--query", "q0", "--out", out)
        assert code == 0
        assert any(one.endswith(".png") for one in store.list(f"found-{place}/"))
    review = "s3://bucket/review"
    code, _, errors = say("review", "export", file, "--out", review)
    assert (code, errors) == (0, "")
    (tmp_path / "sheet.csv").write_bytes(store.read("review/sheet.csv"))
    key = ("--key", f"{review}/key.json")
    code, _, errors = say("review", "import", tmp_path / "sheet.csv", *key, *server)
    # The key was read; nobody has filled the sheet in.
    assert (code, errors) == (4, "error: no sheet has an answer.\n")


def test_one_model_is_no_two_sizes(finished: Finished, say: Say) -> None:
    run = finished[1].run
    code, _, errors = say("analyse", run, f"{run}/", "--what", "scale", *ALL)
    assert (code, "are of one model, which would count twice." in errors) == (4, True)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--what", "tail"], 2, "--what tail: it is tails, layers, copies, order, scale or"),
        (["--what", "tails", "--by", "kind"], 2, "--by: keys of metadata are of --what layers and"),
        (["--what", "order"], 2, "name the file of sentences by parts with --probes FILE"),
        (["--what", "order", "--probes", "nope.yaml"], 2, "--probes: there is no file nope.yaml."),
        (["--what", "tails", "--probes", "f"], 2, "--probes: sentences by parts are of --what"),
        (["--what", "scale"], 2, "--what scale: name two runs or more, of models of different"),
        (["nope", "--what", "layers"], 2, "--what layers is of one run, and 2 are named."),
        (["--what", "tails", "--only", "kind"], 2, "--only kind: write KEY=VALUE"),
        (["--what", "tails", "--png"], 2, "--png: pictures are files beside the page; name a"),
        (["--probes", "nope.yaml"], 2, "--probes: there is no file nope.yaml."),
        (["nope"], 2, "nope does not exist."),
        (["--what", "tails", "--only", "kind=x"], 4, "--only kind=x: no query has that in its"),
        (["--what", "tails", "--pairs", "3"], 2, "--pairs: hits of other queries are of --what"),
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


def test_a_server_that_is_named_is_that_of_the_model_and_the_corpus_too(
    finished: Finished, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    whole = places.run_config

    def told(place: str, strict: bool = False, settings: Sequence[str] = ()) -> RunConfig:
        asked.append([*settings])
        return whole(place, strict, settings)

    monkeypatch.setattr(places, "run_config", told)
    run, server = finished[1].run, ("--endpoint-url", "http://127.0.0.1:9")
    code, _, errors = say("analyse", run, "--what", "layers", "--pairs", 1, *ALL, *server)
    assert (code, errors) == (0, "")
    code, _, errors = say("review", "export", run, "--out", tmp_path / "review", *server)
    assert (code, errors) == (0, "")
    assert asked == [["storage.endpoint_url=http://127.0.0.1:9"]] * 2
