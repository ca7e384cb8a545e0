"""Whole runs of models with other objectives than the next token, and what is refused of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masked import tiny_bert
from other_kinds import CLASSES, CLASSIFIERS, CLS, MASK, MASKED, SEP, tokenizer

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.early import Inputs
from rayinfluence.dataflow.plan.inspecting import inspect
from rayinfluence.errors import ConfigError, CorpusError, ModelError, QueryError
from rayinfluence.report import render_page
from rayinfluence.report.settings import choices
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

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


def test_positions_of_padding_are_no_context(tmp_path: Path) -> None:
    """Of RoBERTa's 18 the first two are no token's; nobody has to know."""
    found = inspect(masked_run(tmp_path, "roberta", corpus={"context": None}))
    assert found.context == 16
    assert found.refused is None


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


def labelled(folder: Path, name: str = "bert", label: str = "index", **overrides: Any) -> RunConfig:
    """Documents with the name of a class, or its number, and queries that ask for one."""
    corpus = {"context": 14, "label_column": "class", **overrides.pop("corpus", {})}
    config = tiny_run(
        folder, pretrained=CLASSIFIERS[name](torch.float32, "sdpa"), corpus=corpus, **overrides
    )
    tokenizer().save_pretrained(folder / "model")
    generator = np.random.default_rng(0)
    rows = [
        {
            "text": words(generator, 1 + n % 11),
            "class": n % 3 if label == "index" else CLASSES[n % 3],
        }
        for n in range(30)
    ]
    write(folder / "documents.jsonl", rows)
    queries = [
        {"query_id": f"q{n}", "prompt": words(generator, 5), "completion": CLASSES[n]}
        for n in range(3)
    ]
    contrast = {"prompt": words(generator, 4), "completion": "dull", "rather_than": "fair"}
    measured = [
        {**queries[1], "query_id": name, "measurement": name} for name in ("logit", "margin")
    ]
    write(folder / "queries.jsonl", [*queries, {"query_id": "contrast", **contrast}, *measured])
    return config


def words(generator: np.random.Generator, count: int) -> str:
    return " ".join(f"w{index}" for index in generator.integers(2, 40, count))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_attributed_from_documents_to_the_report(
    tmp_path: Path, name: str, execute: Execute
) -> None:
    config = labelled(
        tmp_path, name, dtype="float64", attention="eager",
        scan={"methods": ["gradient_product"], "group_by": ["class"], "top": 100, "rank": "dense"},
    )  # fmt: skip
    (results,) = execute(config).values()
    assert results.manifest["objective"]["kind"] == "classification"
    row = results.queries["q1"]
    assert row["token_texts"] == ["fine"]
    model = CLASSIFIERS[name](torch.float64)
    logits = model(torch.tensor([row["tokens"] + [SEP]])).logits[0].detach()
    log_ps = logits.log_softmax(-1)
    assert row["log_probability"] == pytest.approx(float(log_ps[1]), rel=1e-6)
    odds = float(logits[1] - logits[[0, 2]].logsumexp(0))
    found = {name: results.queries[name] for name in ("logit", "margin")}
    assert found["logit"]["value"] == pytest.approx(float(logits[1]), rel=1e-5)
    assert found["margin"]["value"] == pytest.approx(odds, rel=1e-5)
    assert [one["unit"] for one in found.values()] == ["logits", "nats"]
    contrast = results.queries["contrast"]
    logits = model(torch.tensor([contrast["tokens"] + [SEP]])).logits[0].detach()
    assert contrast["value"] == pytest.approx(float(logits[0] - logits[2]), rel=1e-5)
    everything = [*results.proponents("q1"), *results.opponents("q1")]
    assert {hit.metadata["class"] for hit in everything} == {0, 1, 2}
    assert "what counts is the class of each sequence" in render_page({"gradient_product": results})
    alone = labelled(
        tmp_path / "alone", name, dtype="float64", attention="eager", batch_tokens=1,
        scan={"methods": ["gradient_product"], "top": 100, "rank": "dense"},
    )  # fmt: skip
    assert hits(execute(alone)["gradient_product"]) == pytest.approx(hits(results), rel=1e-6)


def test_names_and_numbers_of_classes_are_the_same(tmp_path: Path, execute: Execute) -> None:
    scan = {"methods": ["gradient_product"]}
    one = execute(labelled(tmp_path / "one", scan=scan))["gradient_product"]
    other = execute(labelled(tmp_path / "other", label="name", scan=scan))["gradient_product"]
    assert hits(one) == hits(other)


def test_a_document_whose_class_is_unknown_is_a_bad_one(tmp_path: Path, execute: Execute) -> None:
    config = labelled(tmp_path)
    generator = np.random.default_rng(1)
    rows = [{"text": words(generator, 3), "class": n % 3} for n in range(400)]
    rows[7]["class"] = "odd"
    rows[8]["text"] = words(generator, 20)
    write(tmp_path / "documents.jsonl", rows)
    manifest = execute(config)["ekfac"].manifest
    assert manifest["corpus"]["bad_documents"] == 2
    assert manifest["corpus"]["documents"] == 398
    (fragment,) = (Path(config.run) / "corpus" / "fragments").glob("*.json")
    said = fragment.read_text()
    assert "'class' is 'odd', and the model's classes are dull, fine, fair (or 0 to 2)" in said
    assert "has 22 tokens, and a classifier gets it whole: from 2 to 14" in said


def test_a_column_of_labels_that_no_document_has_is_told_before_the_model_is_loaded(
    tmp_path: Path,
) -> None:
    config = labelled(tmp_path, corpus={"label_column": "kind"})
    with pytest.raises(CorpusError) as refused:
        Inputs.of(config)
    assert str(refused.value).endswith(
        "has no 'kind' in any row; there are text, class. Name yours under corpus.label_column."
    )


def test_a_query_for_a_class_that_is_not_there_is_refused(tmp_path: Path, execute: Execute) -> None:
    config = labelled(tmp_path)
    write(tmp_path / "queries.jsonl", [{"query_id": "q", "prompt": "w3 w4", "completion": "odd"}])
    with pytest.raises(QueryError, match="the model's classes are dull, fine, fair"):
        execute(config)
    assert not (Path(config.run) / "corpus").exists()


def test_a_decoder_without_padding_is_told_what_to_do(tmp_path: Path, execute: Execute) -> None:
    config = labelled(tmp_path, "gpt2")
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    described["pad_token_id"] = None
    (tmp_path / "model" / "config.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="set `pad_token_id` there"):
        execute(config)


@pytest.mark.parametrize(
    ("described", "overrides", "said"),
    [
        ({}, {"corpus": {"label_column": None}}, "corpus.label_column: the model is a classifier"),
        ({"problem_type": "regression"}, {}, "has a regression"),
        ({"id2label": {"0": "score"}}, {}, "has a regression"),
        ({}, {"objective": "causal"}, "Set `objective.kind: classification`"),
        ({"architectures": ["GPT2LMHeadModel"]}, {}, "corpus.label_column: the model is a causal"),
    ],
    ids=("no column", "regression", "one number", "kind", "causal"),
)
def test_what_is_no_classification_is_refused_before_the_model_is_loaded(
    tmp_path: Path, described: dict[str, Any], overrides: dict[str, Any], said: str
) -> None:
    config = labelled(tmp_path, **overrides)
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **described}))
    with pytest.raises(ConfigError) as refused:
        Inputs.of(config)
    assert said in str(refused.value)
