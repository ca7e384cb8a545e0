"""Texts of no corpus where training counted some tokens alone: their completions count."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.errors import InputError
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]

ROWS = [{"prompt": f"w{i} w{i + 1}", "text": f" w{i + 2} w{(7 * i) % 40}"} for i in range(36)]


def finished(folder: Path, loss: str = "completion", **scan: Any) -> RunConfig:
    """A run in float64 on prompts and what follows them."""
    config = tiny_run(
        folder,
        dtype="float64",
        objective={"loss": loss},
        corpus={"prompt_column": "prompt"},
        scan=scan,
    )
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    rayinfluence.run(config)
    return config


def in_parts(row: dict[str, str]) -> dict[str, str]:
    return {"prompt": row["prompt"], "completion": row["text"]}


@pytest.mark.parametrize("loss", ["completion", "all"])
def test_a_pair_of_the_corpus_gets_its_scan_s_score(tmp_path: Path, loss: str) -> None:
    run = finished(tmp_path, loss).run
    results = rayinfluence.load_results(run)
    known = results.proponents("q0") + results.opponents("q0")
    assert len(known) > 8
    rows = [ROWS[one.sequence_id] for one in known]
    found = rayinfluence.probe(run, [in_parts(row) for row in rows], queries=["q0"])
    whole = rayinfluence.probe(run, [row["prompt"] + row["text"] for row in rows], queries=["q0"])
    assert (found.loss, found.counted_whole) == (loss, [])
    scores = [one.score for one in found.scores["q0"]]
    assert scores == pytest.approx([one.scan_score for one in known], rel=1e-9)
    assert [text.text for text in found.texts] == [one.text for one in known]
    # A text alone counts whole, and that is said where it is not what training did.
    same = scores == pytest.approx([one.score for one in whole.scores["q0"]], rel=1e-6)
    assert same == (loss == "all")
    assert whole.counted_whole == [text.name for text in whole.texts] * (loss != "all")
    counted = [False, False, True, True] if loss == "completion" else None
    assert [text.loss_mask for text in found.texts] == [counted] * len(known)
    assert {text.loss_mask for text in whole.texts} == {None}


def test_texts_that_count_whole_are_named_and_pairs_are_not(tmp_path: Path, say: Say) -> None:
    run = finished(tmp_path).run
    path = tmp_path / "v.yaml"
    path.write_text("partitions: {p: [{prompt: w1, completion: ' w2'}, w3 w4]}")
    code, _, errors = say("probe", run, "--file", path, "--text", "w5 w6")
    assert code == 0
    said = " ".join(errors.split())
    assert "objective.loss: completion), and all tokens of 2 of 3 texts count, such as" in said
    code, printed, _ = say("probe", run, "--file", path, "--json")
    found = json.loads(printed)
    assert found["loss"] == "completion"
    assert [text["loss_mask"] for text in found["texts"]] == [[False, True], None]
    path.write_text("partitions: {p: [{prompt: w1, completion: ' w2'}]}")
    assert say("probe", run, "--file", path)[2] == ""


def test_a_completion_of_which_nothing_is_predicted_is_refused_by_its_name(tmp_path: Path) -> None:
    run = finished(tmp_path, methods=["ekfac", "bm25"]).run
    beyond = {"prompt": "w1 " * 15 + "w1", "completion": " w2"}
    alone = {"prompt": "", "completion": "w2"}
    for text in (beyond, alone):
        with pytest.raises(InputError, match="'text 1' cannot be scored"):
            rayinfluence.probe(run, [text])
    # What a method by words makes of texts has no loss in it.
    by_words = rayinfluence.probe(run, [beyond, "w1 w2"], method="bm25")
    assert by_words.counted_whole == []
