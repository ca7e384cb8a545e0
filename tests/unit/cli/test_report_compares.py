"""`rayinfluence report` of several results, and without some of their sequences."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]
CONDITION = "source = 'gamma'"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that keeps all that it finds, by two methods."""
    scan = {"top": 12, "methods": ["ekfac", "bm25"], "group_by": ["source", "year"]}
    config = tiny_run(tmp_path_factory.mktemp("whole"), scan=scan)
    rayinfluence.run(config)
    return config


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The same model on a part of the same documents, under other ids of sequences."""
    part = {"exclude": "source == 'gamma'"}
    config = tiny_run(tmp_path_factory.mktemp("filtered"), scan={"top": 12}, corpus=part)
    rayinfluence.run(config)
    return config


def parsed(printed: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed)
    return found


def digests(config: RunConfig, query_id: str, method: str = "ekfac") -> list[str]:
    found = rayinfluence.load_results(config.run, method).proponents(query_id)
    return list(dict.fromkeys(one.content_digest for one in found))


def test_two_runs_are_compared_by_what_their_sequences_say(
    whole: RunConfig, filtered: RunConfig, say: Say
) -> None:
    code, printed, errors = say("report", whole.run, filtered.run, "--json")
    assert (code, errors) == (0, "")
    found = parsed(printed)
    assert [side["method"] for side in found["sides"]] == ["ekfac", "ekfac"]
    assert {"key": "corpus.exclude", "values": ["", "source == 'gamma'"]} in found["differences"]
    [pair] = found["pairs"]
    assert [one["ours"] for one in pair["queries"]] == ["q0", "q1", "q2"]
    for one in pair["queries"]:
        ours, theirs = (digests(config, one["ours"]) for config in (whole, filtered))
        [overlap] = one["hits"][0]["overlaps"]
        assert overlap["k"] == 10
        assert overlap["both"] == len({*ours[:10]} & {*theirs[:10]}) > 0
        assert overlap["by_chance"] == pytest.approx(10 / max(one["scored"]))
    page = Path(found["page"])
    assert page.parent == Path(whole.run) / "views"
    assert "B beside A" in page.read_text()
    code, printed, _ = say("report", whole.run, filtered.run)
    assert code == 0
    assert "corpus.exclude left out" in printed
    assert f"comparison: {page}" in printed


def test_methods_and_queries_of_one_run_are_compared(whole: RunConfig, say: Say) -> None:
    code, printed, _ = say("report", whole.run, "--method", "bm25", "--method", "ekfac", "--json")
    assert code == 0
    found = parsed(printed)
    assert [side["method"] for side in found["sides"]] == ["bm25", "ekfac"]
    both = found["pairs"][0]["queries"][0]["hits"][0]["overlaps"][0]
    ours, theirs = (digests(whole, "q0", method) for method in ("bm25", "ekfac"))
    assert both["both"] == len({*ours[: both["k"]]} & {*theirs[: both["k"]]})
    code, printed, _ = say("report", whole.run, "--query", "q0", "--query", "q2", "--json")
    assert code == 0
    found = parsed(printed)
    assert list(found["survivors"]) == ["q0", "q2"]
    [one] = found["comparison"]["pairs"][0]["queries"]
    assert (one["ours"], one["theirs"]) == ("q0", "q2")
    ours, theirs = digests(whole, "q0"), digests(whole, "q2")
    assert one["hits"][0]["overlaps"][0]["both"] == len({*ours[:10]} & {*theirs[:10]})


def test_earlier_results_are_named_by_how_their_fingerprint_begins(
    whole: RunConfig, say: Say
) -> None:
    [version] = Results.versions(Store(whole.run))
    code, printed, _ = say("report", f"{whole.run}@{version[:8]}", "--json")
    assert (code, parsed(printed)["results"]) == (0, version)
    assert "/views/" in parsed(printed)["page"]


def test_without_a_source_hits_are_those_of_the_others(whole: RunConfig, say: Say) -> None:
    code, printed, _ = say("report", whole.run, "--exclude", CONDITION, "--query", "q1", "--json")
    assert code == 0
    found = parsed(printed)
    results = rayinfluence.load_results(whole.run)
    expected = [one.sequence_id for one in results.proponents("q1") if one.source != "gamma"]
    shown = found["survivors"]["q1"]["proponents"]
    assert [one["sequence_id"] for one in shown] == expected[:5]
    assert [one["rank"] for one in shown] == [1, 2, 3, 4, 5]
    told = found["without"]["queries"]["q1"]
    assert told["proponents"] == {"left": len(expected), "of": results.count("q1", "proponent")}
    rows = [row for row in results.groups.to_pylist() if row["query_id"] == "q1"]
    rest = [row for row in rows if row["column"] == "source" and row["value"] != "gamma"]
    assert told["sums"]["positive_sum"] == pytest.approx(sum(r["positive_sum"] for r in rest))
    assert told["sums"]["n_sequences"] == sum(row["n_sequences"] for row in rest)
    page = Path(found["page"]).read_text()
    assert "This is not removal" in page
    # The report of all is another page.
    say("report", whole.run)
    assert "This is not removal" not in (Path(whole.run) / "report.html").read_text()


def test_what_is_left_is_the_first_of_the_rest(whole: RunConfig, tmp_path: Path) -> None:
    """Scores of a sequence do not hang on others, so those of a run on the rest alone are these."""
    scan = {"top": 84, "methods": ["bm25"]}
    run = tiny_run(tmp_path, scan=scan)
    every = [
        one for one in rayinfluence.run(run).proponents("q0") if one.metadata["source"] != "gamma"
    ]
    kept = rayinfluence.load_results(whole.run, "bm25").proponents("q0")
    left = [one.content_digest for one in kept if one.source != "gamma"]
    assert left == [one.content_digest for one in every[: len(left)]]


def test_csv_and_comparisons_are_without_them_too(
    whole: RunConfig, filtered: RunConfig, say: Say
) -> None:
    code, printed, _ = say("report", whole.run, "--exclude", CONDITION, "--csv", "-")
    assert code == 0
    assert '"alpha"' in printed
    assert '"gamma"' not in printed
    arguments = whole.run, filtered.run, "--exclude", CONDITION, "--json"
    found = parsed(say("report", *arguments)[1])
    assert [side["without"] for side in found["sides"]] == [CONDITION, CONDITION]
    assert "This is not removal" in found["sides"][0]["notes"][0]
    for pair in found["pairs"]:
        hits = [hit for one in pair["queries"] for hit in one["hits"][0]["first"]]
        assert {hit["source"] for hit in hits} == {"alpha", "beta"}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["{run}", "{run}", "--method", "kfac"], 2, "are by ekfac, bm25."),
        (["{run}", "{run}", "--csv", "x.csv"], 2, "--csv: it has the survivors of one run"),
        (["{run}", "{run}", "--query", "q9"], 2, "--query q9: the results by ekfac have 3"),
        (["{run}", "{run}/nowhere"], 2, "does not exist"),
        (["{run}@0000", "{run}"], 2, "no results there begin so"),
        (["{run}", "--exclude", "sorce = 'x'"], 2, "no hit has 'sorce' in its metadata"),
        (["{run}", "--exclude", "source ="], 2, "--exclude: 'source =': it cannot be read"),
        (["nowhere", "--exclude", "source <> 'x'"], 2, "unequal is written !="),
    ],
)
def test_mistakes_are_sentences(
    whole: RunConfig, say: Say, arguments: list[str], code: int, sentence: str
) -> None:
    filled = [one.format(run=whole.run) for one in arguments]
    found, printed, errors = say("report", *filled)
    assert (found, printed, sentence in errors) == (code, "", True), errors


def test_all_scores_and_their_corpus_tell_what_the_rest_adds_up_to(
    say: Say, tmp_path: Path
) -> None:
    config = tiny_run(tmp_path, scan={"top": 5, "scores": "dense"})
    results = rayinfluence.run(config)
    condition = "source = 'gamma' and year > 1991"
    arguments = "report", config.run, "--exclude", condition, "--json"
    sums = parsed(say(*arguments)[1])["without"]["queries"]["q0"]["sums"]
    rows = pq.read_table(next(Path(config.run).glob("corpus/shards/*.parquet"))).to_pylist()
    metadata = [json.loads(row["metadata"]) for row in rows]
    rest = {
        place
        for place, row in enumerate(metadata)
        if not (row["source"] == "gamma" and row["year"] > 1991)
    }
    scores = {row["sequence_id"]: row["score"] for row in results.scores("q0").to_pylist()}
    assert sums["n_sequences"] == len(rest) < sums["all_n_sequences"] == len(scores)
    positive = sum(score for place, score in scores.items() if place in rest and score > 0)
    assert sums["positive_sum"] == pytest.approx(positive)
    # Sums of a corpus that is another by now would be of other sequences.
    (tmp_path / "late.jsonl").write_text('{"id": "late", "text": "w1 w2 w3", "source": "late"}\n')
    names = [str(tmp_path / f"{name}.jsonl") for name in ("documents", "late")]
    more = config.corpus.model_copy(update={"documents": names})
    with Run(config.model_copy(update={"corpus": more})) as run:
        run.tokenize()
    told = parsed(say(*arguments)[1])["without"]["queries"]["q0"]
    assert told["sums"] is None
    assert "is not known" in told["sentence"]
