"""Runs of several seeds, merged: means are exact, and results are results."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

import rayinfluence
from rayinfluence.dataflow.seeds import all_scores
from rayinfluence.dataflow.seeds.merge import merge_seeds
from rayinfluence.dataflow.seeds.sources import Source, in_order
from rayinfluence.errors import ConfigError, IncompleteResultsWarning
from rayinfluence.report import render_page
from rayinfluence.storage.results import Results, seeds_schema
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_gpt2, tiny_run

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]
METHODS = ["ekfac", "bm25", "self_influence"]
SCAN: dict[str, Any] = {"methods": METHODS, "scores": "dense", "top": 8, "token_scores": 7}
#: Of the last the survivors alone are kept; splits are not the same in all.
OTHERWISE: list[dict[str, Any]] = [
    {"token_influences": 2},
    {"split_tokens": 70},
    {"split_tokens": 200, "token_influences": 2},
    {"scores": "survivors"},
]
N = len(OTHERWISE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of four seeds on one corpus; nobody may change them."""
    root = tmp_path_factory.mktemp("seeds")
    for seed, scan in enumerate(OTHERWISE):
        model = tiny_gpt2(seed, dtype=torch.float32, attention="sdpa")
        folder = root / f"s{seed}"
        folder.mkdir()
        config = tiny_run(folder, 40, pretrained=model, scan={**SCAN, **scan})
        if seed == N - 1:
            # The same questions in another order, one by another name, and one of its own.
            path = folder / "queries.jsonl"
            first, second, third = map(json.loads, path.read_text().splitlines())
            more = {"query_id": "more", "prompt": "w1 w2", "completion": " w3"}
            rows = [third, more, {**second, "query_id": "other"}, first]
            path.write_text("\n".join(map(json.dumps, rows)))
        rayinfluence.run(config)
    return [root / f"s{seed}" / "run" for seed in range(N)]


def source(run: Path) -> Source:
    store = Store(str(run))
    methods = Results.load(store).manifest["methods"]
    return Source(run.parent.name, store, {name: Results.load(store, name) for name in methods})


def merged(runs: list[Path], into: Path) -> None:
    merge_seeds([source(run) for run in runs], Store(str(into)))


@pytest.fixture(scope="module")
def of_all(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of them merged, of which all have all scores."""
    into = tmp_path_factory.mktemp("merged") / "all"
    merged(runs[: N - 1], into)
    return into


@pytest.fixture(scope="module")
def of_survivors(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four merged."""
    into = tmp_path_factory.mktemp("merged") / "survivors"
    merged(runs, into)
    return into


def scores_of(runs: list[Path], method: str, query_id: str) -> tuple[list[int], NDArray[Any]]:
    """The scores of all sequences by each run [S, N], as the results give them."""
    tables = [rayinfluence.load_results(run, method).scores(query_id) for run in runs]
    ids = tables[0]["sequence_id"].to_pylist()
    assert all(table["sequence_id"].to_pylist() == ids for table in tables)
    return ids, np.stack([table["score"].to_numpy().astype(np.float64) for table in tables])


def each_query(results: Results) -> Iterator[str]:
    assert results.queries
    yield from results.queries


@pytest.mark.parametrize("method", METHODS)
def test_means_of_all_scores_are_numpys(runs: list[Path], of_all: Path, method: str) -> None:
    results = rayinfluence.load_results(of_all, method)
    for query_id in each_query(results):
        ids, scores_SN = scores_of(runs[: N - 1], method, query_id)
        means = scores_SN.mean(axis=0)
        errors = scores_SN.std(axis=0, ddof=1) / np.sqrt(N - 1)
        found = results.scores(query_id)
        assert found["sequence_id"].to_pylist() == ids
        # Seeds are added up in an order of their own, so that none of theirs is another.
        assert found["score"].to_numpy() == pytest.approx(means, rel=1e-14, abs=1e-14)
        assert found["score_se"].to_numpy() == pytest.approx(errors, rel=1e-12, abs=1e-14)
        by_id = dict(zip(ids, zip(means, errors, strict=True), strict=True))
        told = results.manifest["seeds"]["sequences"][method][query_id]
        n_shown = 0
        for sign, hits in ((1, results.proponents(query_id)), (-1, results.opponents(query_id))):
            order = sorted((-sign * mean, i) for i, (mean, _) in by_id.items() if sign * mean > 0)
            assert [hit.sequence_id for hit in hits] == [i for _, i in order[: len(hits)]]
            n_shown += len(hits)
            for rank, hit in enumerate(hits, 1):
                mean, error = by_id[hit.sequence_id]
                assert (hit.rank, hit.scan_rank, hit.n_seeds) == (rank, rank, N - 1)
                assert hit.score == hit.scan_score == pytest.approx(mean, rel=1e-14)
                assert hit.score_se == pytest.approx(error, rel=1e-12)
                if method == "bm25":
                    assert hit.delta_nats is hit.delta_nats_se is None
                    continue
                n_training = results.manifest["n_training_sequences"]
                assert hit.delta_nats == pytest.approx(mean / n_training, rel=1e-14)
                assert hit.delta_nats_se == pytest.approx(error / n_training, rel=1e-12)
        most = sum(min(8, int((sign * means > 0).sum())) for sign in (1, -1))
        assert n_shown == most - told["hits_cut"]
        [row] = [one for one in results.statistics.to_pylist() if one["query_id"] == query_id]
        assert row["n_sequences"] == told["by_all"] == len(ids)
        assert row["positive_sum"] == pytest.approx(means[means > 0].sum(), rel=1e-12)
        assert row["n_negative"] == (means < 0).sum()
        tails = results.tails.filter(pa.compute.equal(results.tails["query_id"], query_id))
        assert pa.compute.sum(tails["count"]).as_py() == (means != 0).sum()


def hits_by_id(run: Path, method: str, query_id: str) -> Mapping[int, Any]:
    results = rayinfluence.load_results(run, method)
    hits = [*results.proponents(query_id), *results.opponents(query_id)]
    return {hit.sequence_id: hit for hit in hits}


def named(run: Path, query_id: str) -> str:
    """What a run calls a question of merged results."""
    if query_id not in ("q1", "other"):
        return query_id
    return "other" if run.parent.name == f"s{N - 1}" else "q1"


@pytest.mark.parametrize("kind", ["all", "survivors"])
@pytest.mark.parametrize("method", METHODS)
def test_scores_by_layer_and_token_are_means_where_all_seeds_have_them(
    runs: list[Path], of_all: Path, of_survivors: Path, method: str, kind: str
) -> None:
    into, some = (of_all, runs[: N - 1]) if kind == "all" else (of_survivors, runs)
    results = rayinfluence.load_results(into, method)
    seen = {"by token": 0, "by pairs": 0, "without": 0}
    for query_id in each_query(results):
        theirs = [hits_by_id(run, method, named(run, query_id)) for run in some]
        for hit in hits_by_id(into, method, query_id).values():
            rows = [of[hit.sequence_id] for of in theirs if hit.sequence_id in of]
            assert {row.content_digest for row in rows} <= {hit.content_digest}
            whole = len(rows) == len(some)
            if not whole or method == "bm25":
                assert hit.layer_scores == {}
            else:
                for name, score in hit.layer_scores.items():
                    mean = np.mean([row.layer_scores[name] for row in rows])
                    assert score == pytest.approx(mean, rel=1e-6, abs=1e-6)
            for part in (
                "token_scores",
                "output_token_influences",
                "input_token_influences",
                "embedding_influences",
            ):
                values = [getattr(row, part) for row in rows]
                if not whole or any(value is None for value in values):
                    assert getattr(hit, part) is None
                    seen["without"] += 1
                    continue
                seen["by token"] += part == "token_scores"
                mean = np.mean(values, axis=0)
                assert getattr(hit, part) == pytest.approx(mean, rel=1e-5, abs=1e-5)
            if whole and all(row.pair_scores for row in rows):
                seen["by pairs"] += 1
                mean = np.mean([row.pair_scores for row in rows], axis=0)
                assert np.array(hit.pair_scores) == pytest.approx(mean, rel=1e-12, abs=1e-12)
            else:
                assert hit.pair_scores is None
    assert method != "ekfac" or seen["without"]
    # Seeds agree too little on what stands out by itself.
    assert method == "self_influence" or (seen["by token"] and seen["by pairs"])


def test_of_survivors_means_are_over_what_all_kept_and_that_is_said(
    runs: list[Path], of_survivors: Path
) -> None:
    results = rayinfluence.load_results(of_survivors)
    ordered = sorted(runs, key=lambda run: source(run).fingerprint)
    there = rayinfluence.load_results(ordered[0]).queries
    assert list(results.queries) == [name for name in there if name != "more"]
    assert results.manifest["dense_scores"] is None
    assert len(results.statistics) == 0
    for query_id in each_query(results):
        theirs = [hits_by_id(run, "ekfac", named(run, query_id)) for run in runs]
        common = set.intersection(*map(set, theirs))
        told = results.manifest["seeds"]["sequences"]["ekfac"][query_id]
        assert told["by_all"] == len(common)
        assert told["not_by_all"] == len(set.union(*map(set, theirs))) - len(common)
        hits = hits_by_id(of_survivors, "ekfac", query_id)
        assert set(hits) == common
        for i, hit in hits.items():
            scores = np.array([of[i].score for of in theirs])
            assert hit.score == pytest.approx(scores.mean(), rel=1e-13)
            assert hit.score_se == pytest.approx(scores.std(ddof=1) / 2, rel=1e-12)
            scanned = np.mean([of[i].scan_score for of in theirs])
            assert hit.scan_score == pytest.approx(scanned, rel=1e-13)
            assert hit.direction == ("proponent" if scores.mean() > 0 else "opponent")
    lines = results.warnings
    assert lines[0] == "not all runs were asked 1 query, which is left out: 'more'."
    assert any(line.startswith("ekfac: means are over the sequences that all") for line in lines)
    assert "Such means are biased" in lines[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_order_of_runs_does_not_matter(runs: list[Path], of_all: Path, tmp_path: Path) -> None:
    wanted = contents(of_all)
    assert len(wanted) > 10
    for number, order in enumerate(permutations(runs[: N - 1])):
        merged(list(order), tmp_path / str(number))
        assert contents(tmp_path / str(number)) == wanted


def test_few_queries_are_held_at_once(
    runs: list[Path], of_all: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_scores, "_BLOCK", 1)
    merged(runs[: N - 1], tmp_path)
    ours, theirs = (rayinfluence.load_results(folder) for folder in (tmp_path, of_all))
    assert len(ours.manifest["methods"]["ekfac"]["banks"]) == 3
    assert ours.survivors.equals(theirs.survivors)
    assert ours.statistics.equals(theirs.statistics)
    for query_id in each_query(ours):
        assert ours.scores(query_id).equals(theirs.scores(query_id))


def test_tables_say_what_their_columns_are(of_all: Path) -> None:
    results = rayinfluence.load_results(of_all)
    damping = results.manifest["methods"]["ekfac"]["damping"]
    assert list(damping) == results.manifest["model"]["modules"]
    assert "0.1 times the mean of a module" in render_page({"ekfac": results})
    schema = results.survivors.schema
    assert schema.names == seeds_schema(results.meaning).names
    assert schema.field("score_se").metadata[b"unit"].decode() == results.meaning.unit
    assert "mean over 3 models that differ in their seed" in results.meaning.description


def test_what_models_think_of_a_query_is_a_mean(runs: list[Path], of_all: Path) -> None:
    ours = rayinfluence.load_results(of_all).queries
    theirs = [rayinfluence.load_results(run).queries for run in runs[: N - 1]]
    for query_id, query in ours.items():
        rows = [of[query_id] for of in theirs]
        for name in ("value", "log_probability", "token_log_probabilities"):
            mean = np.mean([row[name] for row in rows], axis=0)
            assert query[name] == pytest.approx(mean, rel=1e-14)
        ranks = [row["token_ranks"] for row in rows]
        assert query["token_ranks"] == (ranks[0] if all(of == ranks[0] for of in ranks) else None)
        assert query["greedy"] is all(row["greedy"] for row in rows)
        assert query["warning"].startswith("of one of the models at least: the model would hardly")
        for name in ("prompt", "completion", "digest", "tokens", "token_texts", "metadata"):
            assert query[name] == rows[0][name]


def edited(run: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a run whose results' manifest says something else."""
    shutil.copytree(run / "results", folder / "results")
    path = folder / "results" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["tokenizer"].update(digest="t"), r"have different tokenizers, "),
        (
            lambda m: m["corpus"].update(fingerprint="c"),
            r"are on different corpora, .*: a mean is over",
        ),
        (lambda m: m["methods"].pop("bm25"), r"results by different methods, ekfac, "),
        (lambda m: m["config"]["scan"].update(damping_scale=0.5), r"scan\.damping_scale, 0\.[15] "),
        (lambda m: m["config"]["scan"].update(solver={"name": "pcg"}), r"differ in scan\.solver, "),
        (lambda m: m["config"]["scan"].update(damping_scale=[1, 2]), r"scan\.damping_scale, "),
        (lambda m: m["config"]["scan"].update(rank=9), r"differ in scan\.rank, [94] and [94]: "),
        (lambda m: m["config"]["objective"].update(loss="completion"), r"differ in objective, "),
        (lambda m: m["model"].update(modules=["h.0"]), r"differ in model\.modules, "),
        (lambda m: m.update(n_training_sequences=7), r"differ in n_training_sequences, "),
        (lambda m: m["numerics"].update(version=0), r"differ in numerics\.version, "),
    ],
)
def test_what_differs_in_more_than_its_seed_is_refused(
    runs: list[Path], tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    other = edited(runs[1], tmp_path / "other", change)
    with pytest.raises(ConfigError, match=message):
        merged([runs[0], other], tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_what_a_run_lacks_the_means_lack(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[1] / "scan", tmp_path / "part" / "scan")

    def without_the_last(manifest: dict[str, Any]) -> None:
        gone = manifest["dense_scores"].pop()
        manifest["set_aside"] = [{"name": "split 9", "digest": gone, "reason": "it is damaged"}]
        left_out = {"corpus.exclude": 3}
        manifest["selection"] = {"corpus_sequences": 9, "sequences": 6, "left_out": left_out}

    part = edited(runs[1], tmp_path / "part", without_the_last)
    with pytest.warns(IncompleteResultsWarning, match="lack 1 splits"):
        sources = [source(run) for run in (runs[0], part)]
    merge_seeds(sources, Store(str(tmp_path / "into")))
    with pytest.warns(IncompleteResultsWarning, match="lack 1 splits"):
        ours = rayinfluence.load_results(tmp_path / "into")
    assert not ours.complete
    whole = rayinfluence.load_results(runs[0]).scores("q0")
    scored = ours.scores("q0")["sequence_id"].to_pylist()
    lacking = set(whole["sequence_id"].to_pylist()) - set(scored)
    assert 0 < len(lacking) < len(whole)
    assert ours.manifest["seeds"]["sequences"]["ekfac"]["q0"]["not_by_all"] == len(lacking)
    assert any("have no score by some run" in text for text in ours.warnings)
    said = "scored a part of the corpus (corpus.exclude), and means are of no sequence that it left"
    assert any(said in text for text in ours.warnings)
    page = render_page({"ekfac": ours})
    assert "split 9" in page
    assert "to be scanned" not in page


def test_seeds_are_two_at_least_and_of_different_models(
    runs: list[Path], of_all: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="a standard error from two runs on"):
        merged(runs[:1], tmp_path / "into")
    with pytest.raises(ConfigError, match="s0 and s0 are by the same model"):
        merged([runs[0], runs[0]], tmp_path / "into")
    with pytest.raises(ConfigError, match="is a mean over seeds already"):
        merged([runs[0], of_all], tmp_path / "into")
    with pytest.raises(ConfigError, match="is the directory of a run"):
        merged(runs[:2], runs[2])

    def ask_another(manifest: dict[str, Any]) -> None:
        manifest["queries"] = [{"query_id": "x", "digest": "y"}]

    other = edited(runs[1], tmp_path / "other", ask_another)
    with pytest.raises(ConfigError, match="have no question in common"):
        merged([runs[0], other], tmp_path / "into")


def test_commands_show_errors_where_there_are_some(
    runs: list[Path], tmp_path: Path, say: Say
) -> None:
    into = tmp_path / "into"
    code, printed, errors = say("merge", *runs[: N - 1], "--into", into)
    assert code == 0
    assert printed.startswith(f"{into}: means over 3 seeds of all scores, by ekfac, bm25, self_inf")
    assert "of 3 queries" in printed
    assert f"report: {into}/report.html" in printed
    page = (into / "report.html").read_text()
    assert " ± " in page
    assert str(runs[0]) in page
    hit = rayinfluence.load_results(into).proponents("q0")[0]
    assert hit.score_se is not None
    code, printed, _ = say("report", into, "--query", "q0")
    assert code == 0
    assert " ± " in next(line for line in printed.splitlines() if line.startswith("1 "))
    assert " ± " in say("report", into)[1]
    found = json.loads(say("report", into, "--query", "q0", "--json")[1])
    [first, *_] = found["survivors"]["q0"]["proponents"]
    assert (first["score_se"], first["n_seeds"]) == (hit.score_se, 3)
    rows = list(csv.DictReader(io.StringIO(say("report", into, "--csv", "-")[1])))
    assert float(rows[0]["score_se"]) == hit.score_se
    assert {row["n_seeds"] for row in rows} == {"3"}
    rows = list(csv.DictReader(io.StringIO(say("report", runs[0], "--csv", "-")[1])))
    assert "score_se" not in rows[0]
    code, printed, _ = say("report", into, runs[0])
    assert code == 0
    assert " ± " in printed
    code, printed, _ = say("status", into)
    assert code == 0
    assert "means over 3 seeds of 3 queries by ekfac" in printed
    code, _, errors = say("merge", runs[0], "--into", tmp_path / "one")
    assert (code, "two runs on" in errors) == (2, True)
    found = json.loads(say("merge", *runs, "--into", tmp_path / "json", "--json")[1])
    assert (found["n"], found["of_all_scores"]) == (4, False)
    assert found["queries_left_out"] == ["more"]


def test_dampings_may_be_in_another_order(runs: list[Path], tmp_path: Path) -> None:
    """Which only says who is shown first."""
    some = []
    for number, dampings in enumerate(([0.1, 1], [1, 0.1])):
        change = partial(dampings_of, dampings)
        some.append(edited(runs[number], tmp_path / str(number) / "run", change))
    ordered = in_order([source(run) for run in some])
    assert {one.store.url for one in ordered} == {str(run) for run in some}


def dampings_of(dampings: list[float], manifest: dict[str, Any]) -> None:
    manifest["config"]["scan"]["damping_scale"] = dampings
