"""`rayinfluence ask`: one question of a run that is done."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import rayinfluence
from rayinfluence.corpus.query_files import read_queries
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.storage.store import Store
from rayinfluence.testing.runs import tiny_run

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_run(tmp_path_factory.mktemp("asked"), n_documents=20)
    rayinfluence.run(config)
    return Path(config.run)


def test_a_question_is_scanned_alone_and_is_a_query_from_then_on(run: Path, say: Say) -> None:
    there = set(run.glob("scan/*/partials/*"))
    bytes_of = {path: path.read_bytes() for path in there}
    code, printed, errors = say("ask", run, "w1 w2", " w3 w4")
    assert code == 0
    assert "w1 w2 → w3 w4" in printed
    assert "factors      reused" in errors
    assert {path: path.read_bytes() for path in there} == bytes_of
    banks = {path.parent.parent for path in run.glob("scan/*/partials/*")}
    assert len(banks) == 2
    results = rayinfluence.load_results(run)
    assert list(results.queries)[:3] == ["q0", "q1", "q2"]
    [asked] = list(results.queries)[3:]
    # What a file asks gives the same scores.
    config = tiny_run(run.parent, n_documents=20, run=str(run.parent / "other"))
    rows = (run.parent / "queries.jsonl").read_text()
    row = {"prompt": "w1 w2", "completion": " w3 w4"}
    try:
        (run.parent / "queries.jsonl").write_text(json.dumps(row))
        assert [one.query_id for one in read_queries(Store(config.queries or ""))] == [asked]
        other = rayinfluence.run(config)
    finally:
        (run.parent / "queries.jsonl").write_text(rows)
    found = {one.sequence_id: one.score for one in results.proponents(asked)}
    same = {one.sequence_id: one.score for one in other.proponents(asked)}
    assert found == pytest.approx(same, rel=1e-4)
    # Asked again, nothing is done; a later run asks it too.
    code, printed, errors = say("ask", run, "w1 w2", " w3 w4", "--json")
    assert (code, "results      reused" in errors) == (0, True)
    said = json.loads(printed)
    assert (said["query_id"], said["completion"]) == (asked, " w3 w4")
    assert [one["score"] for one in said["methods"]["ekfac"]["proponents"]] == [
        one.score for one in results.proponents(asked, 5)
    ]
    config = tiny_run(run.parent, n_documents=20)
    assert [one.query_id for one in Inputs.of(config).needed_queries][3:] == [asked]


def test_the_model_answers_first(run: Path, say: Say) -> None:
    code, printed, errors = say("ask", run, "w5 w6", "--generate", "--tokens", 3, "--json")
    assert code == 0
    said = json.loads(printed)
    assert said["generated"]
    assert f"answer       {said['completion']!r}" in errors
    query = rayinfluence.load_results(run).queries[said["query_id"]]
    assert query["greedy"]
    drawn = [
        say("ask", run, "w5 w6", "--generate", "--sample", "--seed", 5, "--json")[1]
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("x",), 2, "there is nothing to explain: give a completion after the prompt"),
        (("x", ""), 4, "the completion of the query is empty"),
        (("x", " y", "--generate"), 2, "a completion is given, and --generate lets"),
        (("x", " y", "--sample"), 2, "--sample is of an answer of the model's: add --generate"),
        (("x", "--generate", "--seed", 1), 2, "--seed is of what is drawn: add --sample"),
        (("w1 " * 40, " w2"), 4, "shorten its prompt"),
        (("w1 " * 40, "--generate"), 4, "which leaves no room for an answer; shorten it"),
        (("hi", "yes", "--chat"), 4, "the tokenizer has no chat template"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence_and_is_not_kept(
    run: Path, say: Say, arguments: tuple[str | int, ...], code: int, why: str
) -> None:
    before = sorted(run.glob("asked/*"))
    found, _, errors = say("ask", run, *arguments)
    assert (found, why in " ".join(errors.split())) == (code, True), errors
    assert sorted(run.glob("asked/*")) == before


def test_a_run_without_factors_has_nothing_to_answer_with(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config.model_dump()))
    code, _, errors = say("ask", tmp_path / "run", "x", " y")
    assert (code, "has neither results nor factors" in " ".join(errors.split())) == (2, True)
