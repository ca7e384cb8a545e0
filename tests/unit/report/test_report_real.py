"""The report of a real run shows what its manifest knows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_results import Page, terminal_of

from rayinfluence.dataflow.run import Run
from rayinfluence.display.plain import plain_lines
from rayinfluence.report import of_all, render_page
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Execute = Callable[..., dict[str, Results]]

METHODS = ["ekfac", "kfac", "gradient_product"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """Of a whole run by all methods."""
    folder = tmp_path_factory.mktemp("real")
    config = tiny_run(folder, scan={"methods": METHODS}, corpus={"bad_rows": 1})
    with (folder / "documents.jsonl").open("a") as file:
        file.write('{"text": ""}\n')
    with pytest.MonkeyPatch.context() as patch, Run(config) as run:
        patch.setattr("rayinfluence.dataflow.stages.sample._LOWEST_LIMIT", 0.0)
        return run.all()


@pytest.fixture(scope="module")
def manifest(results: dict[str, Results]) -> dict[str, Any]:
    return results["ekfac"].manifest


@pytest.fixture(scope="module")
def page(results: dict[str, Results]) -> Page:
    return Page(render_page(results))


def test_the_damping_of_every_module_and_method_is_shown(
    page: Page, manifest: dict[str, Any]
) -> None:
    ekfac, kfac = (manifest["methods"][method]["damping"] for method in METHODS[:2])
    assert list(ekfac) == list(kfac) == manifest["model"]["modules"]
    for module in manifest["model"]["modules"]:
        assert f"{module}{ekfac[module]:.3g}{kfac[module]:.3g}" in page.text
    # Each is that of its own Lambda.
    assert ekfac != kfac
    assert manifest["methods"]["gradient_product"]["damping"] == {}
    assert "Damping0.1 times the mean of a module's Lambda" in page.text


def test_digests_and_fingerprints_are_shown_whole(page: Page, manifest: dict[str, Any]) -> None:
    digests = [
        manifest["fingerprint"],
        manifest["model"]["digest"],
        manifest["tokenizer"]["digest"],
        manifest["corpus"]["fingerprint"],
        manifest["factors"]["fingerprint"],
        *(bank for method in METHODS for bank in manifest["methods"][method]["banks"]),
    ]
    assert len(set(digests)) == 8
    for one in digests:
        assert one in page.text
    for place in (manifest["config"]["queries"], manifest["corpus"]["url"]):
        assert place in page.text


def test_the_error_of_the_factors_stands_beside_the_bound_that_was_asked(
    page: Page, manifest: dict[str, Any]
) -> None:
    error = manifest["factors"]["error"]
    assert error > manifest["factors"]["error_bound"] == 0.1
    assert f"within {error:.1%}" in page.text
    assert "(10.0% was asked for, and NOT met)" in page.text
    assert f"Fitted on {manifest['factors']['n_sequences']} sequences" in page.text
    assert (
        "4, most of all inputs of transformer.h.0.mlp.c_fc (directions without any curvature: 1)"
        in page.text
    )


def test_only_stages_that_read_tokens_have_a_rate(page: Page, manifest: dict[str, Any]) -> None:
    assert manifest["stages"]["eigen"]["tokens"] == 0
    assert re.search(r"eigen [\d.,]+ s; ", page.text)
    assert re.search(r"scan [\d.,]+ s, [\d,]+ tokens/s", page.text)
    assert not re.search(r"\b0 tokens/s", page.text)


def test_what_was_looked_at_and_what_was_not_is_said_in_words(
    page: Page, manifest: dict[str, Any]
) -> None:
    model = manifest["model"]
    assert "53% of the model's parameters (2,424 of 4,560), in 4 modules" in page.text
    assert sum(model["untracked"].values()) == 4560 - 2424
    assert "transformer.h.*.attn.c_attn" in model["untracked"]
    assert not any("mlp" in name for name in model["untracked"])
    for name in model["untracked"]:
        assert name in page.text
    assert "documents without text: 1" in page.text
    assert f"ends of a single token: {manifest['corpus']['short_chunks']}" in page.text
    assert "at full rank, and up to" in page.text


def test_the_page_says_estimate_and_how_it_was_made(page: Page) -> None:
    assert "How far to trust this" in page.text
    assert "by EK-FAC influence functions: a linear prediction" in page.text
    assert "Nothing was retrained" in page.text
    assert "estimated to raise the completion's probability" in page.text
    for claim in ("raised the", "lowered the", "caused the"):
        assert claim not in page.text


def test_splits_that_were_set_aside_are_named_where_trust_is_weighed(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, 200, corpus={"n_training_sequences": 10_000})
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write("not json\n")
    with Run(config) as run:
        run.tokenize()
        run.fit()
    [shard] = Path(config.run, "corpus/shards").iterdir()
    body = bytearray(shard.read_bytes())
    body[200] ^= 0xFF
    shard.write_bytes(body)
    results = execute(config)
    text = Page(render_page(results)).text
    whole = "\n".join(plain_lines(of_all(results)))
    lost = (
        "corpus: 1 row is no document, and left out, of 1 file; the first is "
        f"{tmp_path / 'documents.jsonl'}:201: not JSON"
    )
    [warning] = [one for one in results["ekfac"].warnings if one.startswith(lost)]
    for said in (text, whole):
        assert warning in said
        assert "rows that are no documents: 1" in said
        assert "53% of the model's parameters (2,424 of 4,560), in 4 modules" in said
    assert all(f"Warning: {one}\n" in f"{whole}\n" for one in results["ekfac"].warnings)
    assert "splits that could not be scored: 1 (split 0 (row groups 0 to " in text
    assert "rows that are no documents: 1" in text
    assert "10,000 sequences that the model is said to be trained on" in text
    assert "divided by the number of training sequences, 10,000" in text


def test_quarantined_sequences_of_every_bank_are_in_the_manifest_and_the_report(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries that are added have a bank of their own, which may find other sequences bad."""
    from rayinfluence.dataflow.compute import scoring as stages

    config = tiny_run(tmp_path, 200)
    execute(config)
    with (tmp_path / "queries.jsonl").open("a") as file:
        file.write('{"query_id": "late", "prompt": "w1 w2", "completion": " w3"}\n')
    original = stages.finite_scores

    def spoiled(found: Any, n_queries: int, quarantine: Any) -> Any:
        for batch, scores in found:
            scores[batch.sequence_ids == 7] = float("nan")
        return original(found, n_queries, quarantine)

    monkeypatch.setattr(stages, "finite_scores", spoiled)
    results = execute(config)
    method = results["ekfac"].manifest["methods"]["ekfac"]
    reason = "its influence is not finite"
    assert method["quarantined"] == [{"sequence_id": 7, "reason": reason, "queries": ["late"]}]
    assert method["scanned_sequences"] == results["ekfac"].manifest["n_sequences"] - 1
    text = Page(render_page(results)).text
    assert f"7: {reason} (for late)" in text
    assert "sequences quarantined in the scan: 1" in text


def test_a_score_that_overflows_for_one_query_is_missing_there_alone(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayinfluence.dataflow.compute import scoring as stages

    (tmp_path / "whole").mkdir()
    (tmp_path / "spoiled").mkdir()
    whole = execute(tiny_run(tmp_path / "whole", 200, scan={"scores": "dense"}))["ekfac"]
    victim = whole.proponents("q0")[0].sequence_id
    [bank] = (tmp_path / "whole").glob("**/scan/*/manifest.json")
    place = json.loads(bank.read_text())["query_digests"].index(whole.queries["q0"]["digest"])
    original = stages.finite_scores

    def spoiled(found: Any, n_queries: int, quarantine: Any) -> Any:
        for batch, scores in found:
            scores[batch.sequence_ids == victim, place] = float("inf")
        return original(found, n_queries, quarantine)

    monkeypatch.setattr(stages, "finite_scores", spoiled)
    results = execute(tiny_run(tmp_path / "spoiled", 200, scan={"scores": "dense"}))
    found, n_all = results["ekfac"], whole.manifest["n_sequences"]
    first, *others = (query["query_id"] for query in found.manifest["queries"])
    scanned = ["query_id", "direction", "scan_rank", "scan_score", "sequence_id"]
    for query in others:
        ours, theirs = (
            [
                [row for row in table.to_pylist() if row["query_id"] == query]
                # The second pass batches what survived for any of them: last bits may differ.
                for table in (one.table.select(scanned), one.groups, one.statistics, one.tails)
            ]
            for one in (found, whole)
        )
        assert ours == theirs
        assert found.scores(query).equals(whole.scores(query))
    assert found.scores(first)["sequence_id"].to_pylist() == [
        i for i in range(n_all) if i != victim
    ]
    counts = {row["query_id"]: row["n_sequences"] for row in found.statistics.to_pylist()}
    assert counts == {first: n_all - 1, **dict.fromkeys(others, n_all)}
    assert victim not in {one.sequence_id for one in found.proponents(first)}
    method, reason = found.manifest["methods"]["ekfac"], "its influence is not finite"
    assert method["quarantined"] == [{"sequence_id": victim, "reason": reason, "queries": [first]}]
    assert method["scanned_sequences"] == n_all - 1
    text = Page(render_page(results)).text
    assert f"{victim}: {reason} (for {first})" in text
    assert "sequences quarantined in the scan: 1" in text


def test_the_same_manifest_gives_the_same_bytes(results: dict[str, Results]) -> None:
    store = Store(results["ekfac"].manifest["config"]["run"])
    again = {method: Results.load(store, method) for method in METHODS}
    assert render_page(again) == render_page(results)
    assert json.loads(json.dumps(results["ekfac"].manifest)) == results["ekfac"].manifest


def test_the_terminal_says_what_proponents_add_up_to(results: dict[str, Results]) -> None:
    shown = " ".join(terminal_of(results["ekfac"], width=200).split())
    assert "The first 5 proponents together: " in shown
    assert "beyond the linear range: no prediction" in shown or "times as likely" in shown
