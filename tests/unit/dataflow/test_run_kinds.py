"""Whole runs of models with other objectives than the next token, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from masked import tiny_bert
from other_kinds import CLS, MASK, MASKED, SEP, tokenizer

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.plan.inspecting import inspect
from rayinfluence.errors import ConfigError, ModelError
from rayinfluence.report import render_page
from rayinfluence.report.settings import choices
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

Execute = Callable[..., dict[str, Results]]


def masked_run(folder: Path, name: str = "bert", **overrides: Any) -> RunConfig:
    model = MASKED[name](torch.float32, "sdpa")
    context = {"context": 14, **overrides.pop("corpus", {})}
    config = tiny_run(folder, 30, pretrained=model, corpus=context, **overrides)
    tokenizer().save_pretrained(folder / "model")
    return config


def hits(results: Results) -> dict[tuple[str, int], float]:
    return {
        (query, hit.sequence_id): hit.score
        for query in results.queries
        for hit in [*results.proponents(query), *results.opponents(query)]
    }


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_language_model_is_attributed_from_documents_to_the_report(
    tmp_path: Path, name: str, execute: Execute
) -> None:
    """Its kind is told by its config.json; texts keep their ends."""
    config = masked_run(tmp_path, name, scan={"methods": ["ekfac", "gradient_product"]})
    results = execute(config)
    manifest = results["ekfac"].manifest
    assert manifest["objective"]["kind"] == "masked"
    assert manifest["numerics"]["masking"]["token"] == MASK
    assert manifest["preflight"]["future"] is None
    query = results["ekfac"].queries["q0"]
    assert query["n_completion_tokens"] == 2
    assert query["tokens"][0] == CLS
    hit = results["ekfac"].proponents("q0")[0]
    assert len(hit.tokens) == len(hit.token_scores)
    page = render_page(results)
    assert "masked and predicted from all others: 0.15 of each" in page
    whole = [hit.tokens for hit in results["ekfac"].proponents("q0") if len(hit.tokens) < 14]
    assert all(SEP in tokens for tokens in whole)


def test_batches_and_splits_change_nothing_but_rounding(tmp_path: Path, execute: Execute) -> None:
    """Masks are of a sequence, wherever it stands."""
    all_of_them = {"top": 100, "rank": "dense", "methods": ["gradient_product"]}
    one = masked_run(tmp_path / "one", dtype="float64", scan=all_of_them)
    other = masked_run(
        tmp_path / "other", dtype="float64", scan={**all_of_them, "split_tokens": 10**6},
        batch_tokens=1,
    )  # fmt: skip
    expected = hits(execute(one)["gradient_product"])
    assert hits(execute(other)["gradient_product"]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_rate_of_masks_is_the_configuration_s(tmp_path: Path, execute: Execute) -> None:
    config = masked_run(tmp_path, objective={"mask_rate": 0.5})
    manifest = execute(config)["ekfac"].manifest
    assert "0.5 of each sequence" in dict(choices(manifest))["Training"]


def test_a_masked_language_model_is_inspected(tmp_path: Path) -> None:
    found = inspect(masked_run(tmp_path))
    assert found.refused is None
    assert found.passed is not None
    assert found.passed.future is None


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("causal", "objective.kind: causal, and the model is a masked language model"),
        ({"loss": "completion"}, "objective.loss: completion, and the model is a masked"),
    ],
    ids=("kind", "loss"),
)
def test_an_objective_that_does_not_fit_the_model_is_refused_before_it_is_loaded(
    tmp_path: Path, objective: Any, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Inputs.of(masked_run(tmp_path, objective=objective))
    assert said in str(refused.value)


def test_masks_of_a_causal_model_are_refused(tmp_path: Path) -> None:
    for objective, said in (
        ({"mask_rate": 0.2}, "objective.mask_rate: the objective of the model is causal"),
        ({"kind": "masked"}, "Set `objective.kind: causal`"),
    ):
        with pytest.raises(ConfigError) as refused:
            Inputs.of(tiny_run(tmp_path, objective=objective))
        assert said in str(refused.value)


def test_a_model_whose_folder_does_not_tell_is_what_the_configuration_says(
    tmp_path: Path, execute: Execute
) -> None:
    """What does not fit is then found out by what it does."""
    config = masked_run(tmp_path)
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    del described["architectures"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"not causal.*set `objective\.kind: masked`"):
        execute(config)
    values = {**config.model_dump(), "objective": "masked"}
    assert execute(RunConfig.parse(values))["ekfac"].manifest["objective"]["kind"] == "masked"


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path, execute: Execute) -> None:
    config = masked_run(tmp_path)
    without = tokenizer()
    without.mask_token = None
    without.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match="tokenizer: it has no mask token"):
        execute(config)


def test_a_corpus_of_another_kind_of_model_is_refused(tmp_path: Path, execute: Execute) -> None:
    config = masked_run(tmp_path)
    execute(config)
    causal = tmp_path / "causal"
    model = tiny_bert()
    model.config.is_decoder = True
    torch.manual_seed(0)
    model = type(model)(model.config)
    model.save_pretrained(causal)
    tokenizer().save_pretrained(causal)
    values = {
        **config.model_dump(),
        "run": str(tmp_path / "other"),
        "model": str(causal),
        "corpus": {"path": f"{config.run}/corpus"},
    }
    with pytest.raises(ConfigError, match="tokenised for a masked language model"):
        execute(RunConfig.parse(values))
