"""`rayinfluence probe`: what it prints, what is in its JSON, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import rayinfluence
from rayinfluence.config import RunConfig

Say = Callable[..., tuple[int, str, str]]
Finished = tuple[Path, RunConfig]


def test_a_table_for_each_query(finished: Finished, say: Say, tmp_path: Path) -> None:
    path = tmp_path / "variants.yaml"
    partitions = "partitions: {same: [w1 w2, w3 w4 w5], 'e\u202evil': [w6 w7]}"
    path.write_text(f"queries: [q0, q2]\n{partitions}", "utf-8")
    code, printed, errors = say("probe", finished[1].run, "--file", path, "--text", "w8 w9")
    assert (code, errors) == (0, "")
    assert [line.split()[0] for line in printed.splitlines() if "  by ekfac" in line] == [
        "q0",
        "q2",
    ]
    assert "same: mean of 2 texts" in printed
    assert "e[U+202E]vil: 1 text" in printed
    assert printed.count("w3 w4 w5") == printed.count("w8 w9") == 2
    probed = rayinfluence.probe(finished[1].run, ["w8 w9"], queries=["q0"])
    score = probed.scores["q0"][0].score
    assert any(f"{score:+.3g}"[:4] in line for line in printed.splitlines() if "w8 w9" in line)


def test_json_is_as_the_reference_says(finished: Finished, say: Say) -> None:
    arguments = "probe", finished[1].run, "--text", "w1 \x1b[2J", "--query", "q1", "--json"
    code, printed, _ = say(*arguments)
    found = json.loads(printed)
    assert (code, "\x1b" in printed) == (0, False)
    reference = (Path(__file__).parents[3] / "docs" / "reference.md").read_text("utf-8")
    section = reference.split("## Texts of no corpus")[1].split("\n## ")[0]
    known = {part for part in section.split("`")[1::2] if part.isidentifier()}
    [query] = found["queries"]
    assert query["query_id"] == "q1"
    keys = [*found, *query, *query["scores"][0], *found["texts"][0]]
    assert set(keys) <= known
    [score], [text] = query["scores"], found["texts"]
    assert (text["name"], text["partition"], text["n_cut"]) == ("text 1", None, 0)
    assert len(score["token_scores"]) == len(text["tokens"]) == len(text["token_texts"])
    assert sum(score["token_scores"]) - score["score"] < 1e-4 * abs(score["score"])
    assert query["partitions"] == []


def test_a_partition_in_json(finished: Finished, say: Say, tmp_path: Path) -> None:
    (tmp_path / "v.yaml").write_text("partitions: {p: [w1 w2, w3 w4]}")
    run = finished[1].run
    _, printed, _ = say("probe", run, "--file", tmp_path / "v.yaml", "--json", "--method", "ekfac")
    found = json.loads(printed)
    for query in found["queries"]:
        [partition], scores = query["partitions"], [one["score"] for one in query["scores"]]
        assert (partition["name"], partition["n_texts"]) == ("p", 2)
        assert abs(partition["score"] - sum(scores) / 2) < 1e-9
        assert partition["delta_nats"] == partition["score"] / found["n_training_sequences"]


def test_a_cut_is_said(finished: Finished, say: Say) -> None:
    long = " ".join(f"w{i}" for i in range(20))
    code, printed, errors = say("probe", finished[1].run, "--text", long, "--query", "q0")
    assert (code, "cut: the first 16 of its 20 tokens are scored" in printed) == (0, True)
    assert "warning: 1 of 1 texts are longer than a sequence of the run" in errors


def test_heat_is_on_the_token_that_is_predicted(finished: Finished, say: Say) -> None:
    from rayinfluence.report.heat import heated_tokens

    probed = rayinfluence.probe(finished[1].run, ["w1 w2 w3"], queries=["q0"])
    scores = probed.scores["q0"][0].token_scores
    shown = heated_tokens(probed.texts[0].token_texts, scores, probed.meaning.ahead)
    assert [token.score for token in shown] == [None, *scores[:-1]]


def test_what_is_missing_is_said(finished: Finished, say: Say, tmp_path: Path) -> None:
    run = finished[1].run
    code, _, errors = say("probe", run)
    assert (code, "give --text or --file" in errors) == (2, True)
    code, _, errors = say("probe", run, "--text", "w1")
    assert (code, "'text 1' cannot be scored" in errors) == (4, True)
    code, _, errors = say("probe", tmp_path, "--text", "w1 w2")
    assert (code, "is no run directory" in errors) == (2, True)
    code, _, errors = say("probe", run, "--text", "w1 w2", "--query", "mine")
    assert (code, "no results of a query 'mine'" in errors) == (2, True)
