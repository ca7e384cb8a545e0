"""A run by representer points: their sums, what is refused, and what a second command finds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from other_kinds import CLASSES, CLASSIFIERS, MASKED, PAIRED, tokenizer
from whole_runs import Execute, add_query

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.jobs import refit, stored_points
from rayinfluence.dataflow.run import Run
from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.report import render_page
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

METHOD = "representer"
SCAN: dict[str, Any] = {
    "methods": [METHOD],
    "scores": "dense",
    "token_scores": "all",
    "representer": {"tolerance": 1e-6},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Results]:
    """A run in float64; nobody may change it."""
    config = tiny_run(tmp_path_factory.mktemp("whole"), dtype="float64", scan=SCAN)
    with Run(config) as run:
        return config, run.all()[METHOD]


def test_all_scores_add_up_to_the_refitted_logits_and_are_those_of_a_dense_computation(
    whole: tuple[RunConfig, Results],
) -> None:
    config, results = whole
    of_fit = results.manifest["methods"][METHOD]["last_layer"]
    assert of_fit["residual"] <= 1e-6
    with Run(config) as run:
        model, rows = run.replica.model, run.corpus.plan(run.numerics.split_tokens)
        (plan,) = (one.refit for one in run._prepared(config.scan))
        assert plan is not None
        weight_VD = read_tensors(plan.store, plan.fitted.key)[0]["weight"]
        tables = [run.corpus.read(split) for split in rows]
        sequences = {
            i: tokens
            for table in tables
            for i, tokens in zip(
                table["sequence_id"].to_pylist(), table["tokens"].to_pylist(), strict=True
            )
        }
        queries = run.queries

    def hidden(tokens: Any) -> torch.Tensor:
        return model.transformer(torch.tensor([list(tokens)])).last_hidden_state[0]

    scale = 1 / (2 * of_fit["l2"] * of_fit["points"])
    for query in queries:
        (answer,) = query.answers
        asked_TD = hidden(answer.tokens)[answer.first_target - 1 : -1]
        logit = sum(
            float(weight_VD[v] @ f_D) for v, f_D in zip(answer.completion, asked_TD, strict=True)
        )
        found = results.scores(query.query.query_id)
        scores = dict(
            zip(found["sequence_id"].to_pylist(), found["score"].to_pylist(), strict=True)
        )
        assert scores.keys() == sequences.keys()
        # The file has float32.
        assert sum(scores.values()) == pytest.approx(logit, rel=1e-5, abs=1e-6)
        told = of_fit["queries"][query.query.query_id]
        assert told["fitted"] == pytest.approx(logit, rel=1e-9)
        assert told["represented"] == pytest.approx(logit, abs=1e-5)
        for sequence_id, tokens in sequences.items():
            features_TD = hidden(tokens)[:-1]
            p_TV = torch.softmax(features_TD @ weight_VD.T, dim=1)
            expected = 0.0
            for token, f_D in zip(answer.completion, asked_TD, strict=True):
                labels_T = torch.tensor([float(one == token) for one in tokens[1:]])
                alphas_T = (labels_T.double() - p_TV[:, token]) * scale
                expected += float(alphas_T @ (features_TD @ f_D))
            assert scores[sequence_id] == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_survivors_are_of_the_largest_scores_and_tokens_add_up(
    whole: tuple[RunConfig, Results],
) -> None:
    _, results = whole
    for query_id in results.queries:
        scores = results.scores(query_id).to_pandas().set_index("sequence_id")["score"]
        first = scores.sort_values(ascending=False)[:5]
        assert results.ids(query_id, "proponent") == first.index.tolist()
        for one in results.proponents(query_id):
            assert sum(one.token_scores) == pytest.approx(one.score, rel=1e-5, abs=1e-6)
            assert one.token_scores[-1] == 0  # nothing is predicted from the last token
            assert one.delta_nats is None
            assert one.layer_scores == {}


def test_a_report_says_what_scores_are(whole: tuple[RunConfig, Results]) -> None:
    page = render_page({METHOD: whole[1]})
    assert "share out the logits" in page
    assert "representer predicts no change" in page


def test_what_is_there_is_taken_up_and_a_new_query_fits_no_layer_again(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, scan={**SCAN, "methods": ["ekfac", METHOD], "representer": {}})
    execute(config)
    fitted = list((tmp_path / "run" / "last_layer").rglob("*.safetensors"))
    before = [(path, path.stat().st_mtime_ns) for path in fitted]
    assert len(before) == 1
    add_query(tmp_path, "new")
    results = execute(config)[METHOD]
    assert "new" in results.queries
    assert [(path, path.stat().st_mtime_ns) for path in fitted] == before
    assert not list((tmp_path / "run" / "last_layer").rglob("*.checkpoint"))


def test_beside_other_methods_and_alone_it_has_the_same_scores(
    tmp_path: Path, execute: Execute, whole: tuple[RunConfig, Results]
) -> None:
    beside = {**SCAN, "methods": ["ekfac", METHOD, "bm25"]}
    results = execute(tiny_run(tmp_path, dtype="float64", scan=beside))[METHOD]
    for query_id in results.queries:
        assert results.scores(query_id).equals(whole[1].scores(query_id))


def test_a_fit_that_does_not_end_is_refused_with_what_is_left_and_goes_on_with_more_steps(
    tmp_path: Path, execute: Execute
) -> None:
    """To the bytes of one that was not stopped."""

    def config(folder: str, steps: int) -> RunConfig:
        fit = {"tolerance": 1e-3, "l2_scale": 0.01, "steps": steps}
        scan = {**SCAN, "representer": fit}
        return tiny_run(tmp_path / folder, dtype="float64", scan=scan)

    with pytest.raises(NumericsError, match=r"after 50 steps the last layer is .* of its length"):
        execute(config("stopped", 1))
    results = execute(config("stopped", 1000))[METHOD]
    through = execute(config("through", 1000))[METHOD]
    for query_id in results.queries:
        assert results.scores(query_id).equals(through.scores(query_id))


def test_features_in_parts_that_no_worker_holds_give_the_layer_that_is_fitted_to_all_at_once(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, and the same after a stop; parts together are what is seen of a split."""
    monkeypatch.setattr(refit, "_PART_BYTES", 1 << 11)

    def made(folder: str, steps: int = 1000) -> dict[str, bytes]:
        fit = {"tolerance": 1e-3, "l2_scale": 0.01, "steps": steps}
        execute(tiny_run(tmp_path / folder, scan={**SCAN, "representer": fit}))
        root = tmp_path / folder / "run"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for part in ("features", "last_layer", "scan", "queries")
            for path in sorted((root / part).rglob("*.safetensors"))
        }

    held = made("held")
    monkeypatch.setattr(stored_points, "HELD_BYTES", {"cpu": 0})
    assert made("read") == held
    with pytest.raises(NumericsError, match="after 50 steps"):
        made("stopped", 1)
    assert made("stopped") == held
    features = [key for key in held if key.startswith("features/")]
    n_parts = Counter(key.rpartition("-")[0] for key in features)
    assert len(n_parts) > 2
    assert max(n_parts.values()) > 2
    monkeypatch.setattr(refit, "_PART_BYTES", 1 << 27)
    whole = made("whole")
    for split, n in n_parts.items():
        key, found = f"{split}-00000.safetensors", _features(tmp_path / "whole/run", split, 1)
        assert key in whole
        assert torch.equal(_features(tmp_path / "held/run", split, n), found)


def _features(run: Path, split: str, n: int) -> torch.Tensor:
    folder, _, name = split.rpartition("/")
    keys = [f"{name}-{part:05d}.safetensors" for part in range(n)]
    read = [read_tensors(Store(str(run / folder)), key)[0]["features"] for key in keys]
    return torch.cat([one for one in read if len(one)])


def test_a_damaged_part_of_features_is_made_again(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refit, "_PART_BYTES", 1 << 12)
    fit = {"tolerance": 1e-3, "l2_scale": 0.01}

    def config(steps: int) -> RunConfig:
        return tiny_run(tmp_path, scan={**SCAN, "representer": {**fit, "steps": steps}})

    with pytest.raises(NumericsError, match="after 50 steps"):
        execute(config(1))
    part = sorted((tmp_path / "run/features").rglob("*-00001.safetensors"))[0]
    body = part.read_bytes()
    part.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert execute(config(1000))[METHOD].queries
    assert part.read_bytes() == body


def test_a_tied_layer_is_said(whole: tuple[RunConfig, Results]) -> None:
    (said,) = [text for text in whole[1].warnings if text.startswith("representer: ")]
    assert "'lm_head'" in said
    assert "the embedding stays as it is" in said


def test_a_function_of_one_s_own_has_no_representers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shares out logits of tokens"):
        tiny_run(tmp_path, scan=SCAN, query_function="mine:value")


def labelled(folder: Path, model: str, **settings: Any) -> RunConfig:
    """Texts with a class and queries that ask for one."""
    made = CLASSIFIERS[model](torch.float32, "sdpa")
    corpus = {"context": 14, "label_column": "class"}
    config = tiny_run(folder, pretrained=made, corpus=corpus, **settings)
    rows = [{"text": _words(n), "class": n % 3} for n in range(30)]
    queries = [{"query_id": f"q{n}", "prompt": _words(n), "completion": CLASSES[n]} for n in (0, 1)]
    _write(folder / "documents.jsonl", rows)
    _write(folder / "queries.jsonl", queries)
    return config


def masked(folder: Path, model: str, **settings: Any) -> RunConfig:
    """Texts, some of whose tokens are masked."""
    made = MASKED[model](torch.float32, "sdpa")
    return tiny_run(folder, 30, pretrained=made, corpus={"context": 14}, **settings)


def paired(folder: Path, model: str, **settings: Any) -> RunConfig:
    """Sources with targets."""
    made = PAIRED[model](torch.float32, "sdpa")
    corpus = {"context": 18, "prompt_column": "question"}
    config = tiny_run(folder, pretrained=made, corpus=corpus, **settings)
    rows = [{"question": _words(n), "text": _words(n + 1)} for n in range(30)]
    _write(folder / "documents.jsonl", rows)
    return config


def _words(number: int) -> str:
    return " ".join(f"w{2 + (number * 7 + place * 3) % 38}" for place in range(1 + number % 6))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.mark.parametrize(
    ("of_kind", "model"),
    [(labelled, "bert"), (labelled, "gpt2"), (masked, "bert"), (paired, "t5"), (paired, "bart")],
)
def test_of_other_kinds_of_models_scores_add_up_too(
    tmp_path: Path, of_kind: Callable[..., RunConfig], model: str, execute: Execute
) -> None:
    config = of_kind(tmp_path, model, dtype="float64", attention="eager", modules="all", scan=SCAN)
    tokenizer().save_pretrained(tmp_path / "model")
    results = execute(config)[METHOD]
    of_fit = results.manifest["methods"][METHOD]["last_layer"]
    assert len(results.queries) >= 2
    for query_id in results.queries:
        total = sum(results.scores(query_id)["score"].to_pylist())
        told = of_fit["queries"][query_id]
        assert total == pytest.approx(told["represented"], rel=1e-5, abs=1e-6)
        assert told["represented"] == pytest.approx(told["fitted"], abs=1e-4)
        for one in results.proponents(query_id):
            assert sum(one.token_scores) == pytest.approx(one.score, rel=1e-5, abs=1e-6)
