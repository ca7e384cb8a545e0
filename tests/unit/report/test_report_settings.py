"""The page says what was chosen and decides how its scores are to be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_results import Page, make_results, page_of

from rayinfluence.report import render_page
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run
from rayinfluence.text import without_credentials

Execute = Callable[..., dict[str, Results]]


def said(name: str, method: dict[str, Any] | None = None, **manifest: Any) -> str:
    """What the page says under a name."""
    methods = {"ekfac": method or {}}
    text = page_of(make_results([], methods=methods, **manifest)).text
    assert text.count(name) <= 1, text
    return text.partition(name)[2]


def test_a_run_s_own_choices_are_on_its_page(tmp_path: Path, execute: Execute) -> None:
    config = tiny_run(
        tmp_path,
        fit={"labels": "data", "blocks": 2, "sequences": 25},
        scan={"rank": "dense", "damping": 0.25},
        modules=["*.mlp.c_fc", "*.mlp.c_proj"],
    )
    results = execute(config)
    text = Page(render_page(results)).text
    there = results["ekfac"].manifest["n_sequences"]
    fitted = results["ekfac"].manifest["factors"]["n_sequences"]
    assert 25 <= fitted < there
    for sentence in (
        "instead of labels that the model drew (fit.labels: data, the empirical Fisher)",
        "cut into 2 blocks (fit.blocks)",
        f"Fitted on {fitted} sequences of {there} (about 25 at most were asked for).",
        "Method ekfacdense: whole query gradients, ",
        "Rank, ekfacdense: query gradients were kept whole",
        "Damping0.25 for every module",
        "Layersthose that match *.mlp.c_fc, *.mlp.c_proj.",
        "Sequencesof at most 16 tokens each",
        f"Documents{config.corpus.documents[0]}",
        "dtype float32, device cpu",
    ):
        assert sentence in text


def test_what_is_chosen_by_default_is_said_as_well(tmp_path: Path, execute: Execute) -> None:
    text = Page(render_page(execute(tiny_run(tmp_path, scan={"rank": 3})))).text
    assert "CurvatureOf labels that the model itself drew (the true Fisher). Fitted on" in text
    assert "Layersthe MLP layers of every block, or all of its layers" in text
    assert "Method ekfacrank 3, " in text
    for other in ("empirical", "blocks (fit.blocks)", "dense", "trust_remote_code"):
        assert other not in text


def test_documents_are_named_with_where_their_text_is() -> None:
    many = [f"s3://bucket/{n}.jsonl" for n in range(11)]
    text = said("Documents", config={"corpus": {"documents": many, "text_column": "body"}})
    assert text.startswith("s3://bucket/0.jsonl; s3://bucket/1.jsonl; ")
    assert "s3://bucket/7.jsonl and 3 more (the text is in body)" in text
    assert "8.jsonl" not in text
    assert said("Documents", config={"corpus": {"documents": []}}).startswith("none are named: ")
    assert said("Documents", config={}) == said("Documents") == ""


def test_what_a_manifest_does_not_know_is_not_said() -> None:
    text = page_of(make_results([])).text
    for name in ("Curvature", "Layers", "Damping", "Rank, ekfac", "Documents", "tokens each"):
        assert name not in text
    assert said("Rank, ekfac", {"rank": None}).startswith("dense: ")
    assert said("Rank, ekfac", {"rank": 32}).startswith("32 in the pass")
    assert said("Curvature", factors={"n_sequences": 5}).startswith(
        "Fitted on 5 sequences of 1,000."
    )


def test_another_tokenizer_and_a_folder_s_own_code_are_named() -> None:
    config = {"tokenizer": "/models/t", "trust_remote_code": True}
    config |= {"storage": {"endpoint_url": "http://minio:9000"}}
    text = page_of(make_results([], config=config, preflight={"context": 8})).text
    assert "one of them; by the tokenizer in /models/t." in text
    assert "Model's codethe folder's own (trust_remote_code)" in text
    assert "Object storagehttp://minio:9000" in text


def test_what_training_maximised_is_said() -> None:
    """A model may be tuned with a loss on answers alone."""

    def text(**objective: object) -> str:
        found = {"kind": "causal", "loss": "all", "reduction": "sum", "tokens": 1234}
        return page_of(make_results([], objective={**found, **objective})).text

    assert "all tokens of a sequence but the first" in text()
    assert "1,234 tokens." in text()
    said = text(loss="completion", sequences_without=7)
    assert "the tokens of completions alone (objective.loss: completion)" in said
    assert "7 sequences have none, and so a score of zero." in said
    assert "the tokens that the documents' train_on lists" in text(loss="train_on")
    assert "the mean over those of a sequence (objective.reduction: mean)" in text(reduction="mean")
    assert "the mean over" not in text()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "s3://b/x.jsonl?X-Amz-Signature=SECRET&X-Amz-Date=1",
            "s3://b/x.jsonl?X-Amz-Signature=***&X-Amz-Date=***",
        ),
        ("https://h/x?sig=SEC/RET=", "https://h/x?sig=***"),
        ("https://h/x#access_token=SECRET", "https://h/x#access_token=***"),
        ("https://user:SECRET@h/x", "https://***@h/x"),
        ("https://SECRET@h/x?v=SECRET", "https://***@h/x?v=***"),
        ("s3://b/part-?.jsonl", "s3://b/part-?.jsonl"),
        ("s3://b/year=2020/a@b.jsonl", "s3://b/year=2020/a@b.jsonl"),
        ("data/part-?-lang=en.jsonl", "data/part-?-lang=en.jsonl"),
    ],
)
def test_addresses_are_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
    text = render_page(
        {
            "ekfac": make_results(
                [],
                config={
                    "queries": url,
                    "tokenizer": url,
                    "corpus": {"documents": [url]},
                    "storage": {"endpoint_url": url},
                },
                corpus={"url": url},
                preflight={"context": 8},
            )
        }
    )
    assert "SECRET" not in text
    assert "RET=" not in text
