"""Methods of all kinds in one run: one pass, one result, and none is known by its name."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from whole_runs import Change, Contents, Execute, add_query, results_of, survivors, times

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.config_methods import BY_ITSELF, DAMPED, Method
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.texts import TermCounts, TextBank, stack_texts
from rayinfluence.dataflow.jobs import rescore as rescoring
from rayinfluence.dataflow.jobs import scan as scanning
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.status import clean
from rayinfluence.errors import ConfigError
from rayinfluence.methods.likeness import Cosine
from rayinfluence.methods.registry import (
    GRADIENT_METHODS,
    METHODS,
    SELF_METHODS,
    TEXT_METHODS,
    factors_of,
)
from rayinfluence.report import render, render_page
from rayinfluence.storage.results import Results, method_tables
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

ALL = ["ekfac", "kfac", "diagonal", "gradient_product", "cosine", "bm25", "tfidf"]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Results]]:
    """A run by all methods that keeps all scores; nobody may change it."""
    folder = tmp_path_factory.mktemp("five")
    config = tiny_run(folder, scan={"methods": ALL, "scores": "dense", "token_scores": "all"})
    with Run(config) as run:
        return config, run.all()


def texts_of(config: RunConfig) -> dict[int, list[int]]:
    """The tokens of all sequences."""
    corpus = Corpus.open(Store(f"{config.run}/corpus"))
    texts: dict[int, list[int]] = {}
    for split in corpus.plan(2**20):
        rows = corpus.read(split)
        ids = rows["sequence_id"].to_pylist()
        texts |= {i: one.tolist() for i, one in zip(ids, sequences_of(rows), strict=True)}
    return texts


def bm25(config: RunConfig, results: Results) -> dict[tuple[str, int], float]:
    """The scores of all sequences by the formula, term by term."""
    texts = texts_of(config)
    mean = sum(map(len, texts.values())) / len(texts)
    scores = {}
    for query_id, query in results.queries.items():
        for sequence_id, tokens in texts.items():
            total = 0.0
            for term in set(query["tokens"]):
                holding = sum(term in other for other in texts.values())
                weight = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
                n = tokens.count(term)
                total += weight * n / (n + 1.5 * (1 - 0.75 + 0.75 * len(tokens) / mean))
            scores[query_id, sequence_id] = total
    return scores


def test_a_configuration_has_the_names_of_the_registry() -> None:
    assert list(get_args(Method)) == list(METHODS)
    apart = {"koh_liang", "representer"}  # which test_run_koh_liang.py and its neighbour are of
    assert set(METHODS) == {*ALL, *BY_ITSELF, *apart}
    assert set(SELF_METHODS) == BY_ITSELF
    assert {method for method in METHODS if factors_of(method)} == DAMPED
    with pytest.raises(ConfigError, match=r"scan\.methods\.0: must be .* bm25, .*, not"):
        RunConfig.parse({"run": "r", "model": "m", "scan": {"methods": ["bm52"]}})


def test_all_methods_are_in_one_result(five: tuple[RunConfig, dict[str, Results]]) -> None:
    config, results = five
    assert list(results) == ALL
    for method, found in results.items():
        meaning = METHODS[method].meaning
        assert found.meaning == meaning
        rows = found.table.to_pylist()
        assert len(rows) > 10
        assert not any(row["suspect"] for row in rows)
        for row in rows:
            assert (row["delta_nats"] is not None) is meaning.predicts
            modules = [name for name, _ in row["layer_scores"]]
            assert modules == (found.manifest["model"]["modules"] if meaning.has_layers else [])
            total = pytest.approx(row["score"], rel=1e-4, abs=1e-4)
            assert sum(row["token_scores"]) == total
            if modules:
                assert sum(score for _, score in row["layer_scores"]) == total
        assert rayinfluence.load_results(config.run, method).survivors.equals(found.survivors)


def test_tables_have_the_units_of_their_methods(
    five: tuple[RunConfig, dict[str, Results]],
) -> None:
    folder = results_of(Path(five[0].run))
    units = {
        method: {
            field.metadata.get(b"unit", b"").decode()
            for name in method_tables(method)
            for field in pq.read_schema(folder / name)
            if re.search("score|sum|lower|upper|tail_start", field.name)
            and not re.search("exponent", field.name)
        }
        for method in ALL
    }
    assert units == {method: {METHODS[method].meaning.unit} for method in ALL}
    assert len({METHODS[method].meaning.unit for method in ALL}) == 4


def test_bm25_is_its_formula(five: tuple[RunConfig, dict[str, Results]]) -> None:
    config, results = five
    expected = bm25(config, results["bm25"])
    for query_id in results["bm25"].queries:
        rows = results["bm25"].scores(query_id).to_pylist()
        assert len(rows) == len(expected) / len(results["bm25"].queries)
        for row in rows:
            wanted = pytest.approx(expected[query_id, row["sequence_id"]], rel=1e-6)
            assert row["score"] == wanted
        found = results["bm25"].proponents(query_id)
        best = sorted((-expected[query_id, row["sequence_id"]], row["sequence_id"]) for row in rows)
        assert [(-one.score, one.sequence_id) for one in found] == [
            (pytest.approx(score, rel=1e-12), sequence_id) for score, sequence_id in best[:5]
        ]
        asked = set(results["bm25"].queries[query_id]["tokens"])
        for one in found:
            assert one.token_scores is not None
            shared = [token in asked for token in one.tokens]
            assert [score > 0 for score in one.token_scores] == shared
            if one.carried_by is not None:
                assert shared[one.carried_by]
        assert results["bm25"].opponents(query_id) == []


def test_tfidf_is_its_formula(five: tuple[RunConfig, dict[str, Results]]) -> None:
    """Equation 28 of Grosse et al. 2023, token by token of the query, those it has twice too."""
    config, results = five[0], five[1]["tfidf"]
    texts = texts_of(config)
    for query_id, query in results.queries.items():
        for row in results.scores(query_id).to_pylist():
            expected = 0.0
            for term in query["tokens"]:
                holding = sum(term in other for other in texts.values())
                idf = math.log((len(texts) - holding + 0.5) / (holding + 0.5) + 1)
                there = term in texts[row["sequence_id"]]
                expected += idf * (1.5 + 1) * there / (there + 1.5)
            assert row["score"] == pytest.approx(expected, rel=1e-6)


def test_a_token_that_is_asked_for_twice_counts_twice_by_tfidf_alone() -> None:
    holding, asked = np.array([3, 3]), np.array([1, 2])
    once, twice = TEXT_METHODS["tfidf"].weight(holding, 10, asked)
    assert twice == 2 * once > 0
    once, twice = TEXT_METHODS["bm25"].weight(holding, 10, asked)
    assert twice == once


def test_bm25_is_that_of_another_library() -> None:
    """On one shard, over the same token ids; bm25s counts a query's tokens as often as it has them,
    so that its queries have each once."""
    bm25s = pytest.importorskip("bm25s")
    generator = np.random.default_rng(0)
    texts = [
        generator.integers(0, 30, int(n)).astype(np.int32) for n in generator.integers(2, 40, 50)
    ]
    asked = [3, 7, 11, 29]
    counts = TermCounts.of(np.array(asked), texts)
    bank = TextBank(
        TEXT_METHODS["bm25"], ["q"], stack_texts([counts.query(TEXT_METHODS["bm25"], asked)])
    )
    index = bm25s.BM25(k1=1.5, b=0.75, method="lucene", dtype="float64")
    index.index([[str(token) for token in text] for text in texts], show_progress=False)
    theirs = index.get_scores([str(token) for token in asked])
    np.testing.assert_allclose(bank.scores(texts)[:, 0], theirs, rtol=1e-9)


def test_cosines_are_products_over_norms(five: tuple[RunConfig, dict[str, Results]]) -> None:
    """The products of norms are those of one number a query and one a sequence."""
    _, results = five
    ratios = []
    for query_id in results["cosine"].queries:
        of_each = [results[m].scores(query_id).to_pandas() for m in ("gradient_product", "cosine")]
        product, cosine = (one.set_index("sequence_id")["score"] for one in of_each)
        assert cosine.abs().max() <= 1
        ratios.append((product / cosine).to_numpy(dtype=np.float64))
    for of_query in ratios[1:]:
        shares = of_query / ratios[0]
        assert np.allclose(shares, np.median(shares), rtol=1e-3)


def test_what_methods_find_does_not_depend_on_the_others(
    five: tuple[RunConfig, dict[str, Results]], tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    """Queries and partials of all methods are, to the last bit, those that each has alone."""

    def committed(run: str) -> dict[str, bytes]:
        found = contents(Path(run))
        return {key: found[key] for key in found if re.match("queries/|scan/.*/partials/", key)}

    together = committed(five[0].run)
    assert len({key.split("/")[1] for key in together if key.startswith("scan")}) == len(ALL)
    apart: dict[str, bytes] = {}
    for methods in (
        ["bm25"],
        ["tfidf"],
        ["cosine"],
        ["ekfac", "kfac", "diagonal", "gradient_product"],
    ):
        scan = {"methods": methods, "scores": "dense", "token_scores": "all"}
        config = tiny_run(tmp_path / methods[0], scan=scan)
        execute(config)
        apart |= committed(config.run)
    assert apart == together


def passes(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> int:
    """Batches that a scan runs through the model."""
    count, score, run = [0], scanning.score_split, Replica.run

    def counted(replica: Replica, *rest: Any) -> Any:
        count[0] += 1
        return run(replica, *rest)

    def watched(*rest: Any) -> Any:
        with monkeypatch.context() as inside:
            inside.setattr(Replica, "run", counted)
            return score(*rest)

    monkeypatch.setattr(scanning, "score_split", watched)
    with Run(config) as opened:
        opened.all()
    monkeypatch.setattr(scanning, "score_split", score)
    return count[0]


def test_all_methods_share_a_pass_and_texts_need_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for methods in (["gradient_product"], ["gradient_product", "cosine", "bm25"], ["bm25"]):
        name = "-".join(methods)
        config = tiny_run(tmp_path / name, 20, scan={"methods": methods})
        found[name] = passes(config, monkeypatch)
    assert found["gradient_product"] == found["gradient_product-cosine-bm25"] > 0
    assert found["bm25"] == 0


def test_texts_need_no_factors_and_no_second_pass_of_the_model(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(tmp_path, scan={"methods": ["bm25"]})
    with Run(config) as run:
        run.begin(needs_queries=True)  # its checks are of the model
        monkeypatch.delattr(Replica, "run")
        results = run.all()["bm25"]
    assert not (Path(config.run) / "factors").exists()
    assert results.manifest["factors"] is None
    assert "rank" not in results.manifest["methods"]["bm25"]
    assert all(query["log_probability"] < 0 for query in results.queries.values())
    printed = io.StringIO()
    render(results, Console(file=printed, width=200))
    page = render_page({"bm25": results})
    assert "no estimate of the model" in page
    for said in (
        "estimated to",
        "more likely",
        "Linear range",
        "Looked at",
        "whole query gradients",
    ):
        assert said not in page
    assert "that raise" not in page + printed.getvalue()


def test_readers_go_by_what_a_method_says(five: tuple[RunConfig, dict[str, Results]]) -> None:
    page = render_page(five[1])
    for method in ALL:
        assert METHODS[method].meaning.description.split(":")[0] in page
    assert "gradient_product, cosine, bm25, tfidf predict no change, and have no delta" in page
    assert "A score by bm25, tfidf says how alike two texts are" in page
    # Heat is on the tokens that are shared, and not on those after them.
    found = five[1]["bm25"]
    asked = " ".join(f"{q['prompt']} {q['completion']}" for q in found.queries.values()).split()
    hot = re.findall(r'<b class="p[1-8]"[^>]*>([^<]*)</b>', render_page({"bm25": found}))
    swatches = [text for text in hot if not re.search("w", text)]
    assert len(hot) - len(swatches) > 10
    assert {text.strip() for text in hot} - {text.strip() for text in swatches} <= set(asked)


def test_counts_are_cleaned_with_the_scan(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, 12, scan={"methods": ["bm25"]})
    execute(config)
    assert count_files(config.run)
    clean(Store(config.run), ["scan"])
    assert not (Path(config.run) / "counts").exists()


def test_a_plan_is_of_methods_by_gradients(tmp_path: Path) -> None:
    for methods in (["cosine", "bm25"], ["bm25"]):
        with Run(tiny_run(tmp_path / methods[0], 12, scan={"methods": methods})) as run:
            plan = run.plan()
        assert plan.work.n_banks == 1
        assert plan.forecast.seconds["scan"] > 0


def count_files(run: str) -> list[Path]:
    return sorted((Path(run) / "counts").rglob("*.safetensors"))


def without(run: str, *folders: str) -> None:
    """Delete what a run has in some folders."""
    for folder in folders:
        for path in (Path(run) / folder).rglob("*"):
            if path.is_file():
                path.unlink()


def test_counts_that_are_there_are_not_made_again(
    tmp_path: Path, execute: Execute, contents: Contents
) -> None:
    """As after a kill; what is damaged or about another split is made again, the rest is not."""
    config = tiny_run(tmp_path, scan={"methods": ["bm25"]})
    execute(config)
    before = contents(Path(config.run))
    first, second, third, *others = count_files(config.run)
    assert others
    wrong = second.read_bytes()
    without(config.run, "queries", "scan", "rescored", "results")
    first.unlink()
    second.write_bytes(second.read_bytes()[:-4])
    third.write_bytes(wrong)
    made = times(Path(config.run))
    execute(config)
    assert contents(Path(config.run)) == before
    again = times(Path(config.run))
    assert all(again[key] == made[key] for key in made if Path(config.run, key) in others)
    # Where the queries are there, nobody asks for counts.
    without(config.run, "counts", "results")
    execute(config)
    assert count_files(config.run) == []


def test_texts_of_a_corpus_that_has_grown_are_weighed_anew(
    tmp_path: Path, execute: Execute, change: Change
) -> None:
    """Scores by texts are of the whole corpus; of gradients the new part alone is scanned."""
    config = tiny_run(tmp_path, scan={"methods": ["gradient_product", "bm25"]})
    execute(config)
    run = Path(config.run)
    before = {key: time for key, time in times(run).items() if re.match("counts|scan", key)}
    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "1", "text": "w1 w2 w3"}\n{"id": "2", "text": "w29 w9 w9 w5"}\n')
    grown = change(config, corpus={"documents": [*config.corpus.documents, str(more)]})
    results = execute(grown)
    after = times(run)
    assert {key: after[key] for key in before} == before
    assert sum(key.startswith("counts") for key in after.keys() - before.keys()) == 1
    expected = bm25(grown, results["bm25"])
    for (query_id, _, sequence_id), score in survivors(results["bm25"]).items():
        assert score == pytest.approx(expected[query_id, sequence_id], rel=1e-12)
    fresh = execute(change(grown, run=str(tmp_path / "fresh")))
    assert survivors(fresh["bm25"]) == survivors(results["bm25"])
    # One by gradients, and one by texts for each corpus.
    assert len(list(run.glob("scan/*/manifest.json"))) == 3


def test_added_queries_have_banks_of_their_own(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(tmp_path, scan={"methods": ["cosine", "bm25"]})
    before = {method: survivors(found) for method, found in execute(config).items()}
    add_query(tmp_path)
    after = execute(config)
    for method, found in after.items():
        ours = survivors(found)
        assert {key: ours[key] for key in before[method]} == before[method]
        assert any(query_id == "new" for query_id, *_ in ours)
        assert len(found.manifest["methods"][method]["banks"]) == 2
    expected = bm25(config, after["bm25"])
    for (query_id, _, sequence_id), score in survivors(after["bm25"]).items():
        assert score == pytest.approx(expected[query_id, sequence_id], rel=1e-12)


def test_what_the_model_cannot_score_texts_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execute: Callable[..., Any]
) -> None:
    """A log-probability that is not finite is a matter of the methods that need one."""
    values, bad = Replica._values, 7

    def spoiled(replica: Replica, batch: Any, labels: Any) -> Any:
        values_B = values(replica, batch, labels)
        scale = np.where(batch.sequence_ids == bad, np.nan, 1.0)
        return values_B * values_B.new_tensor(scale)

    config = tiny_run(tmp_path, 200, scan={"methods": ["cosine", "bm25"]})
    with Run(config) as run:
        run.begin(needs_queries=True)
        monkeypatch.setattr(Replica, "_values", spoiled)
        results = run.all()
    [left_out] = results["cosine"].manifest["methods"]["cosine"]["quarantined"]
    assert left_out["sequence_id"] == bad
    assert results["bm25"].manifest["methods"]["bm25"]["quarantined"] == []
    scanned = [found.manifest["methods"][m]["scanned_sequences"] for m, found in results.items()]
    assert scanned[1] == scanned[0] + 1 == results["bm25"].manifest["n_sequences"]


def test_rows_that_only_texts_found_are_not_run_again(
    tmp_path: Path, execute: Execute, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all rows of an item are such, or none."""
    config = tiny_run(tmp_path, scan={"methods": ["gradient_product", "bm25"], "top": 1})
    whole = execute(config)
    run_again: list[list[int]] = []
    again = rescoring.rescore

    def watched(replica: Replica, asked: Any, table: pa.Table, *rest: Any) -> Any:
        run_again.append(table["sequence_id"].to_pylist())
        return again(replica, asked, table, *rest)

    monkeypatch.setattr(rescoring, "rescore", watched)
    monkeypatch.setattr("rayinfluence.dataflow.stages.second_pass._BATCHES", 0.5)
    cut = execute(change(config, run=str(tmp_path / "cut")))
    ran = [sequence_id for ids in run_again for sequence_id in ids]
    by_gradients = set(cut["gradient_product"].survivors["sequence_id"].to_pylist())
    by_texts = set(cut["bm25"].survivors["sequence_id"].to_pylist())
    assert set(ran) == by_gradients
    assert by_texts - by_gradients
    assert [] in run_again
    for method, found in cut.items():
        theirs = survivors(whole[method])
        assert survivors(found) == pytest.approx(theirs, rel=1e-4)


def test_tables_follow_what_a_method_says_of_itself(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_run(tmp_path, scan={"methods": ["cosine"]})
    execute(config)

    class Mended(Cosine):
        meaning = replace(Cosine.meaning, unit="parts of 1")

    for of_gradients in (METHODS, GRADIENT_METHODS):
        monkeypatch.setitem(of_gradients, "cosine", Mended())  # type: ignore[arg-type]
    table = execute(config)["cosine"].table
    assert table.schema.field("score").metadata[b"unit"] == b"parts of 1"
