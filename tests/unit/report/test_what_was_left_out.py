"""What a report says was left out: all that no score is about, whoever left it out."""

from typing import Any

import pytest
from made_up_results import make_results, page_of, row

from rayinfluence.report.trust import left_out

SELECTED = {"corpus_sequences": 1000, "sequences": 400, "left_out": {"corpus.select": 600}}
CANDIDATES = {
    "sequences": 400,
    "candidates": 30,
    "method": "bm25",
    "run": None,
    "recall": {},
}


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ({}, "nothing: every document and every sequence was scored"),
        ({"selection": None, "filter": None}, "nothing: every document and every sequence was"),
        ({"selection": SELECTED}, "sequences not selected: 600"),
        ({"filter": CANDIDATES}, "sequences that were no candidates: 370"),
        (
            {"selection": SELECTED, "filter": CANDIDATES},
            "sequences not selected: 600; sequences that were no candidates: 370",
        ),
    ],
)
def test_what_nobody_scored_was_left_out(manifest: dict[str, Any], said: str) -> None:
    results = make_results([row()], set_aside=[], **manifest)
    assert left_out({"ekfac": results}).startswith(said)


def test_what_was_measured_is_not_said_to_be_estimated() -> None:
    meaning = {"description": "measured.", "unit": "nats", "predicts": False, "measured": True}
    measured = make_results([row()], method="a", methods={"a": {"meaning": meaning}})
    text = page_of(measured).text
    assert "Nothing was retrained" not in text
    assert "trained without the sequence" in text
    assert "is an estimate that" not in text
    assert "train again without the sequences" not in text
    estimated = page_of(make_results([row()])).text
    assert "Nothing was retrained" in estimated
    assert "train again without the sequences" in estimated
