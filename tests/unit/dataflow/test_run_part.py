"""Runs of a part of the corpus, and of what a filter leaves: the scores that a whole run has."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from whole_runs import partials, survivors

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs import scan as scanning
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.status import status
from rayinfluence.errors import ConfigError, CorpusError
from rayinfluence.influence.recall import recall
from rayinfluence.report import render, render_page
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

N = 120
EXACT = "gradient_product"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Results]]:
    """A run of everything that keeps all scores; nobody may change it."""
    config = tiny_run(
        tmp_path_factory.mktemp("whole"), N, scan={"methods": [EXACT, "tfidf"], "scores": "dense"}
    )
    with Run(config) as run:
        return config, run.all()


def part_of(
    whole: tuple[RunConfig, dict[str, Results]], folder: Path, **sections: dict[str, Any]
) -> RunConfig:
    """The same corpus and queries, otherwise, in a run directory of its own."""
    values = whole[0].model_dump()
    values["run"] = str(folder / "run")
    values["corpus"]["path"] = f"{whole[0].run}/corpus"
    for section, of in sections.items():
        values[section] |= of
    return RunConfig.parse(values)


def run_of(config: RunConfig) -> dict[str, Results]:
    with Run(config) as run:
        return run.all()


def scores_of(results: Results, query_id: str) -> dict[int, float]:
    table = results.scores(query_id)
    return dict(zip(table["sequence_id"].to_pylist(), table["score"].to_pylist(), strict=True))


def rows_of(config: RunConfig) -> dict[int, dict[str, Any]]:
    corpus = Corpus.open(Store(f"{config.run}/corpus"))
    return {
        row["sequence_id"]: {**row, "metadata": json.loads(row["metadata"])}
        for split in corpus.plan(2**20)
        for row in corpus.read(split).to_pylist()
    }


def are_of(found: dict[str, Results], whole: dict[str, Results], ids: set[int]) -> None:
    """All and only these sequences have scores, those that they have among all others."""
    for method, results in found.items():
        for query_id in results.queries:
            theirs = scores_of(whole[method], query_id)
            ours = scores_of(results, query_id)
            assert ours.keys() == ids
            assert ours == pytest.approx({i: theirs[i] for i in ids}, rel=1e-4, abs=1e-5)
            best = sorted(ids, key=lambda i: (-theirs[i], i))[:5]
            positive = [i for i in best if theirs[i] > 0]
            assert [one.sequence_id for one in results.proponents(query_id)] == positive


def test_rows_are_selected_and_excluded_by_metadata(
    whole: tuple[RunConfig, dict[str, Results]], tmp_path: Path
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("documents-7\r\ndocuments-8\n\ndocuments-11\nno such document\n")
    config = part_of(
        whole,
        tmp_path,
        corpus={"select": "source != 'alpha' and year >= 1991", "exclude": {"ids": str(ids)}},
    )
    found = run_of(config)
    rows = rows_of(whole[0])
    selected = {
        i
        for i, row in rows.items()
        if row["metadata"]["source"] != "alpha" and row["metadata"]["year"] >= 1991
    }
    named = {"documents-7", "documents-8", "documents-11"}
    excluded = {i for i in selected if rows[i]["document_id"] in named}
    assert excluded
    assert len(selected) < len(rows)
    are_of(found, whole[1], selected - excluded)
    manifest = found[EXACT].manifest
    told = manifest["selection"]
    assert told["left_out"] == {
        "corpus.select": len(rows) - len(selected),
        "corpus.exclude": len(excluded),
    }
    assert told["corpus_sequences"] - sum(told["left_out"].values()) == told["sequences"]
    assert told["sequences"] == manifest["methods"][EXACT]["scanned_sequences"]
    # N, the weights of terms and the corpus are those of everything.
    assert manifest["n_training_sequences"] == len(rows)
    (said,) = [text for text in found[EXACT].warnings if "corpus.exclude" in text]
    assert "1 of 4 ids are of no document of the corpus, such as 'no such document'" in said
    page = render_page({EXACT: found[EXACT]})
    assert f"{told['sequences']} of the corpus" in page
    ended = status(Store(config.run), Store(config.corpus.path or "")).stages
    assert all(stage.ended for stage in ended)


def test_what_is_unknown_is_counted(
    whole: tuple[RunConfig, dict[str, Results]], tmp_path: Path
) -> None:
    """A year that is compared with text is neither before nor after it: select leaves it out."""
    exclude = part_of(whole, tmp_path, corpus={"exclude": "year < '1991' and source == 'beta'"})
    found = run_of(exclude)[EXACT]
    n_beta = sum(row["metadata"]["source"] == "beta" for row in rows_of(whole[0]).values())
    assert found.manifest["selection"]["unknown"] == {"corpus.exclude": n_beta}
    assert any("'year' is compared with a text" in text for text in found.warnings)
    with pytest.raises(CorpusError, match=r"none of the .* leaves out .*'year' is compared"):
        run_of(part_of(whole, tmp_path / "none", corpus={"select": "year >= '1990'"}))


def test_a_sample_is_of_its_seed_and_says_what_it_can_say(
    whole: tuple[RunConfig, dict[str, Results]], tmp_path: Path
) -> None:
    rows = rows_of(whole[0])
    seen = []
    for place, seed in enumerate((0, 0, 1)):
        sample = {"sequences": 30, "seed": seed}
        config = part_of(whole, tmp_path / str(place), corpus={"sample": sample})
        found = run_of(config)
        ids = set(scores_of(found[EXACT], "q0"))
        assert len(ids) == 30
        are_of(found, whole[1], ids)
        seen.append(ids)
    assert seen[0] == seen[1] != seen[2]
    told = found[EXACT].manifest["selection"]
    assert told["left_out"] == {"corpus.sample": len(rows) - 30}
    assert told["sampled_from"] == len(rows)
    assert 0 < told["best_is_among_top_share"] < 0.15
    assert "this is no top of the whole" in render_page({EXACT: found[EXACT]})


def test_candidates_are_scored_alone_and_the_rest_is_spoken_of(
    whole: tuple[RunConfig, dict[str, Results]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = part_of(
        whole, tmp_path, scan={"candidates": {"method": "tfidf", "top": 4, "sample": 10**6}}
    )
    scored: list[int] = []
    score = scanning.score_split

    def counted(replica: Any, banks: Any, table: Any, advance: Any) -> Any:
        scored.append(len(table))
        return score(replica, banks, table, advance)

    monkeypatch.setattr(scanning, "score_split", counted)
    found = run_of(config)
    by_query = {query_id: scores_of(whole[1]["tfidf"], query_id) for query_id in ("q0", "q1", "q2")}
    candidates = {
        i for scores in by_query.values() for i in sorted(scores, key=lambda i: (-scores[i], i))[:4]
    }
    assert 4 < len(candidates) <= 12
    are_of(found, whole[1], candidates)
    told = found[EXACT].manifest["filter"]
    n_all = len(by_query["q0"])
    assert (told["sequences"], told["candidates"]) == (n_all, len(candidates))
    assert told["candidates"] + told["filtered_out"] == told["sequences"]
    assert told["candidates"] == found[EXACT].manifest["methods"][EXACT]["scanned_sequences"]
    # All of them were sampled, so the recall is known.
    for query_id, sides in told["recall"][EXACT].items():
        scores = scores_of(whole[1][EXACT], query_id)
        for side, sign in (("proponent", -1), ("opponent", 1)):
            first = sorted(scores, key=lambda i: (sign * scores[i], i))
            share = np.mean([i in candidates for i in first[: told["top_sequences"]]])
            assert sides[side]["at_least"] == sides[side]["estimate"] == share
    assert any("share tokens with a query" in text for text in found[EXACT].warnings)
    ended = status(Store(config.run), Store(config.corpus.path or "")).stages
    assert all(stage.ended for stage in ended)
    # By the filter, for the sample, and the candidates; what is done is not done again.
    assert sum(scored) == 2 * n_all + len(candidates)
    scored.clear()
    assert survivors(run_of(config)[EXACT]) == survivors(found[EXACT])
    assert not scored
    for key in sorted(partials(Path(config.run)))[::2]:
        (Path(config.run) / key).unlink()
    (Path(config.run) / "results" / "manifest.json").unlink()
    assert survivors(run_of(config)[EXACT]) == survivors(found[EXACT])
    assert 0 < sum(scored) < 2 * n_all
    console = Console(width=100, file=io.StringIO())
    render(found[EXACT], console, 2)
    assert f"Of {len(candidates)} candidates by tfidf" in " ".join(console.file.getvalue().split())
    assert "no other was scored" in render_page({EXACT: found[EXACT]})


def test_a_sample_bounds_the_recall(
    whole: tuple[RunConfig, dict[str, Results]], tmp_path: Path
) -> None:
    """By the scores that a whole run has; and another filter is no other run."""
    candidates = {"method": "tfidf", "top": 30, "sample": 60}
    config = part_of(whole, tmp_path, scan={"candidates": candidates})
    found = run_of(config)[EXACT]
    told = found.manifest["filter"]
    kept = set(scores_of(found, "q0"))
    scores = scores_of(whole[1][EXACT], "q0")
    sample = _sample(whole[0], 60)
    first = sorted(sample, key=lambda i: (-scores[i], i))
    expected = recall(np.array([i in kept for i in first]), len(scores), told["top_sequences"])
    assert told["recall"][EXACT]["q0"]["proponent"] == pytest.approx(vars(expected))
    bounds = [of["proponent"]["at_least"] for of in told["recall"][EXACT].values()]
    assert 0 < max(bounds) < 1
    more = part_of(whole, tmp_path, scan={"candidates": {**candidates, "sample": 100}})
    assert run_of(more)[EXACT].manifest["filter"]["sampled"] == 100
    other = part_of(whole, tmp_path, scan={"candidates": {**candidates, "top": 2}})
    assert run_of(other)[EXACT].manifest["filter"]["candidates"] < told["candidates"]


def _sample(config: RunConfig, n: int) -> list[int]:
    """The random sample of a run with the configuration's seed."""
    ids = sorted(rows_of(config))
    generator = np.random.Generator(np.random.Philox(key=config.seed))
    return [ids[i] for i in generator.choice(len(ids), n, replace=False, shuffle=False)]


def test_candidates_may_be_what_another_run_found(
    whole: tuple[RunConfig, dict[str, Results]], tmp_path: Path
) -> None:
    candidates = {"run": whole[0].run, "method": "tfidf", "top": 3}
    config = part_of(whole, tmp_path, scan={"methods": [EXACT], "candidates": candidates})
    found = run_of(config)
    theirs = whole[1]["tfidf"].survivors.to_pylist()
    are_of(found, whole[1], {row["sequence_id"] for row in theirs if row["rank"] <= 3})
    assert found[EXACT].manifest["filter"]["run"] == whole[0].run
    other = tiny_run(tmp_path / "other", N, seed=1, scan={"candidates": candidates})
    with pytest.raises(ConfigError, match=r"scan\.candidates\.run: .* are of another corpus"):
        run_of(other)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"corpus": {"select": "yaer > 1990"}},
            r"corpus\.select: no document .*did you mean 'year'",
        ),
        ({"corpus": {"exclude": "year <> 1990"}}, r"corpus\.exclude: .*unequal is written !="),
        ({"corpus": {"select": {"ids": "nowhere.txt"}}}, r"corpus\.select\.ids: there is no file"),
        ({"scan": {"candidates": {"run": "nowhere"}}}, r"scan\.candidates\.run: .* no results yet"),
        ({"corpus": {"select": ["year"]}}, r"corpus\.select: must be a condition .*or {ids: file}"),
        ({"corpus": {"select": {"ids": ["a"]}}}, r"corpus\.select: must be a condition"),
        (
            {"corpus": {"select": {"id": "a"}}},
            r"unknown key 'corpus\.select\.id'; did you mean 'ids'",
        ),
        ({"corpus": {"sample": {"sed": 1}}}, r"unknown key 'corpus\.sample\.sed'; did you mean"),
        (
            {"scan": {"candidates": {"tpo": 5}}},
            r"unknown key 'scan\.candidates\.tpo'; did you mean",
        ),
        ({"scan": {"candidates": {"top": 5}}}, "name a method"),
        ({"scan": {"candidates": {"method": "self_influence"}}}, "asks no query"),
        ({"scan": {"methods": ["tfidf"], "candidates": {"method": "tfidf"}}}, "needs no filter"),
        (
            {"scan": {"methods": ["ekfac", "self_influence"], "candidates": {"method": "bm25"}}},
            "self_influence asks none",
        ),
        (
            {"corpus": {"sample": {"sequences": 0}}},
            r"corpus\.sample\.sequences: must be at least 1",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    whole: tuple[RunConfig, dict[str, Results]],
    tmp_path: Path,
    sections: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(ConfigError, match=said):
        run_of(part_of(whole, tmp_path, **sections))
    assert not (tmp_path / "run" / "scan").exists()


def test_a_condition_on_a_key_that_is_not_there_is_refused_before_tokenising(
    tmp_path: Path,
) -> None:
    config = tiny_run(tmp_path, 20, corpus={"select": "license is null and meta.year > 1"})
    with pytest.raises(ConfigError, match=r"corpus\.select: none of .* has the key 'license'"):
        run_of(config)
    assert not list(Path(config.run).rglob("*.parquet"))


def test_one_sequence_without_a_score_ends_no_run_of_a_few(
    whole: tuple[RunConfig, dict[str, Results]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = _sample(whole[0], 30)[3]
    values = Replica._values

    def spoiled(replica: Replica, batch: Any, labels: Any) -> Any:
        values_B = values(replica, batch, labels)
        return values_B * values_B.new_tensor(np.where(batch.sequence_ids == bad, np.nan, 1.0))

    config = part_of(whole, tmp_path, corpus={"sample": {"sequences": 30}})
    with Run(config) as run:
        run.begin(needs_queries=True)
        monkeypatch.setattr(Replica, "_values", spoiled)
        manifest = run.all()[EXACT].manifest
    [left_out] = manifest["methods"][EXACT]["quarantined"]
    assert left_out["sequence_id"] == bad
    assert manifest["methods"][EXACT]["scanned_sequences"] == 29
