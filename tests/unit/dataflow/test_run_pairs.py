"""Whole runs of models that make targets of sources, and what is refused of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_kinds import CLS, PAIRED, SEP, tokenizer
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.plan.inspecting import inspect
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, ModelError
from rayinfluence.report import render_page
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

Execute = Callable[..., dict[str, Results]]


def words(generator: np.random.Generator, count: int) -> str:
    return " ".join(f"w{index}" for index in generator.integers(2, 40, count))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def pairs(n: int = 30) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    return [
        {"question": words(generator, 1 + i % 6), "text": words(generator, 1 + i % 5)}
        for i in range(n)
    ]


def paired(folder: Path, name: str = "t5", **overrides: Any) -> RunConfig:
    corpus = {"context": 18, "prompt_column": "question", **overrides.pop("corpus", {})}
    config = tiny_run(
        folder, pretrained=PAIRED[name](torch.float32, "sdpa"), corpus=corpus, **overrides
    )
    tokenizer().save_pretrained(folder / "model")
    write(folder / "documents.jsonl", pairs())
    return config


def hits(results: Results) -> dict[tuple[str, int], float]:
    return {
        (query, hit.sequence_id): hit.score
        for query in results.queries
        for hit in [*results.proponents(query), *results.opponents(query)]
    }


WHOLE: dict[str, Any] = {
    "dtype": "float64", "attention": "eager", "modules": "all",
    "scan": {"top": 100, "rank": "dense", "methods": ["gradient_product"]},
}  # fmt: skip


@pytest.fixture(scope="module", params=PAIRED)
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Results]:
    """A kind of model, and what a run of it finds, many pairs a batch."""
    config = paired(tmp_path_factory.mktemp("whole"), request.param, **WHOLE)
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        return request.param, run.all()["gradient_product"]


def test_pairs_are_attributed_from_documents_to_the_report(whole: tuple[str, Results]) -> None:
    """Scores are sums over tokens of autograd's gradients of transformers' own loss."""
    name, results = whole
    manifest = results.manifest
    assert manifest["objective"]["kind"] == "seq2seq"
    n_targets = sum(2 + len(row["text"].split()) for row in pairs())
    assert manifest["objective"]["tokens"] == n_targets
    assert f"given their sources: {n_targets} tokens" in render_page({"gradient_product": results})
    model = PAIRED[name](torch.float64)
    weights = [model.get_submodule(module).weight for module in manifest["model"]["modules"]]

    def gradient(tokens: list[int], begin: int, first: int) -> torch.Tensor:
        source, target = torch.tensor([tokens]).tensor_split([begin], dim=1)
        log_p = model(input_ids=source, labels=target).logits[0].log_softmax(-1)
        value = sum(log_p[n, target[0, n]] for n in range(first - begin, target.shape[1]))
        return torch.cat([one.flatten() for one in torch.autograd.grad(value, weights)])

    query = results.queries["q0"]
    assert query["token_texts"] == [f" {one}" for one in query["completion"].split()]
    first = len(query["tokens"]) - query["n_completion_tokens"]
    of_query = gradient(query["tokens"], first - 1, first)
    for hit in [*results.proponents("q0")[:3], *results.opponents("q0")[:3]]:
        begin = hit.tokens.index(SEP) + 1
        assert hit.tokens[begin] == CLS
        assert hit.tokens[-1] == SEP
        of_hit = gradient(hit.tokens, begin, begin)
        # Biases are tracked too, and are no part of these weights: T5 has none.
        if name == "t5":
            assert hit.score == pytest.approx(float(of_query @ of_hit), rel=1e-5)
        assert sum(hit.token_scores) == pytest.approx(hit.score, rel=1e-6)


def test_neighbours_of_a_pair_change_nothing_but_rounding(
    tmp_path: Path, whole: tuple[str, Results], execute: Execute
) -> None:
    name, beside = whole
    alone = execute(paired(tmp_path, name, **WHOLE, batch_tokens=1))["gradient_product"]
    assert hits(alone) == pytest.approx(hits(beside), rel=1e-6, abs=1e-9)


def test_factors_of_pairs_are_fitted(tmp_path: Path, execute: Execute) -> None:
    """By EK-FAC and K-FAC, whose Lambda counts the rows of each side."""
    results = execute(paired(tmp_path, scan={"methods": ["ekfac", "kfac"]}))
    assert all(results[method].proponents("q0") for method in ("ekfac", "kfac"))


def test_a_model_of_pairs_is_inspected(tmp_path: Path) -> None:
    found = inspect(paired(tmp_path, "bart"))
    assert found.refused is None
    assert found.passed is not None
    assert {layer.part for layer in found.layers} >= {"attention", "mlp"}


def test_a_pair_that_is_none_or_too_long_is_a_bad_document(
    tmp_path: Path, quiet: ProgressLog
) -> None:
    config = paired(tmp_path)
    generator = np.random.default_rng(0)
    rows = pairs(400)
    rows[3] = {"question": "w2", "text": ""}
    rows[5] = {"question": words(generator, 12), "text": words(generator, 9)}
    write(tmp_path / "documents.jsonl", rows)
    with Run(config, quiet) as run:
        run.tokenize()
    (fragment,) = (Path(config.run) / "corpus" / "fragments").glob("*.json")
    said = fragment.read_text()
    report = json.loads(said)["file"]
    assert (report["documents"], report["n_bad"]) == (398, 2)
    assert "source and target have 25 tokens, and are not cut: at most 18" in said
    assert "it has no target after its source" in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"corpus": {"prompt_column": None}}, "corpus.prompt_column: the model makes targets"),
        ({"objective": {"loss": "completion"}}, "what counts is the target"),
        ({"objective": "causal"}, "Set `objective.kind: seq2seq`"),
        ({"corpus": {"label_column": "class"}}, "corpus.label_column: the model is a model of"),
    ],
    ids=("no source", "loss", "kind", "label"),
)
def test_what_fits_no_pairs_is_refused_before_the_model_is_loaded(
    tmp_path: Path, overrides: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Inputs.of(paired(tmp_path, **overrides))
    assert said in str(refused.value)


def test_a_decoder_that_begins_with_nothing_is_refused(tmp_path: Path, execute: Execute) -> None:
    config = paired(tmp_path)
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "decoder_start_token_id": None}))
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        execute(config)
