"""`rayinfluence patterns`: what it prints, what is in its JSON, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from loopback_hub import Hub
from made_up_results import Page
from other_kinds import bert, bert_classifier
from other_kinds import tokenizer as masked_tokenizer

from rayinfluence.config import RunConfig
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_opt
from rayinfluence.testing.models import tiny_tokenizer

Say = Callable[..., tuple[int, str, str]]

CAUSAL = '{"prompt": "w1 w2 w3", "right": " w4", "wrong": " w5"}'
MASKED = '{"text": "w1 [MASK] w3", "right": "w4", "wrong": "w5"}'
REFERENCE = Path(__file__).parents[3] / "docs" / "reference.md"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of models, each with its tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    for name, model, tokenizer in (
        ("gpt2", tiny_gpt2(), tiny_tokenizer()),
        ("bert", bert(), masked_tokenizer()),
        ("llama", tiny_llama(), tiny_tokenizer()),
        ("opt", tiny_opt(), tiny_tokenizer()),
        ("classifier", bert_classifier(), masked_tokenizer()),
    ):
        model.to(torch.float32).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_tables_for_each_query_and_a_page(models: Path, say: Say, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text(f"{MASKED}\n{MASKED.replace('w1', 'w9')}\n")
    place = tmp_path / "page.html"
    code, printed, errors = say(
        *("patterns", models / "bert", "--query", tmp_path / "asked.jsonl"),
        *("--points", 8, "--page", place),
    )
    assert code == 0, errors
    assert "from the embedding of [MASK] to the embedding of each token, over 8 points" in printed
    assert printed.count("token  influence  through tokens  by ways  pattern") == 2
    assert "2 queries of 5 tokens, asked at 2" in printed
    assert "averages over them hold the answer" in printed
    assert f"page: {place}" in printed
    assert "query 2 of 2: q2" in errors
    assert len(Page(place.read_text("utf-8")).of_class("drawing")) == 4


def test_json_is_as_the_reference_says(models: Path, say: Say) -> None:
    arguments = ("patterns", models / "gpt2", "--query", CAUSAL, "--query", CAUSAL)
    code, printed, errors = say(*arguments, "--points", 60, "--quiet", "--json")
    assert (code, errors) == (0, "")
    found = json.loads(printed)
    section = REFERENCE.read_text("utf-8").split("## Influence patterns")[1].split("\n## ")[0]
    known = {part for part in section.split("`")[1::2] if part.isidentifier()}
    query, (group,) = found["queries"][0], found["groups"]
    keys = [*found, *query, *query["patterns"][0], *group, *group["compressed"][0]]
    assert set(keys) <= known
    assert found["baseline"] == "the embedding of <unk>"
    assert (query["tokens"], query["position"]) == (["w1", " w2", " w3"], 2)
    whole = sum(one["influence"] for one in query["patterns"])
    difference = query["value"] - query["value_at_baseline"]
    assert whole == pytest.approx(difference + query["gap"], abs=1e-6)
    assert abs(query["gap"]) < 1e-3 * abs(difference)
    for skip, heads in zip(query["by_skip"], query["by_heads"], strict=True):
        assert skip + heads == pytest.approx(whole, abs=1e-5)
    for one in query["patterns"]:
        assert one["positions"][0] == one["token"]
        assert one["positions"][-1] == 2
        assert all(way == "skip" or 0 <= way < 2 for way in one["ways"])
    assert found["queries"][1]["patterns"] == query["patterns"]
    assert (group["entropy"], group["one_answer"]) == (0, True)
    cells = {(one["method"], one["level"], one["stand_in"]) for one in group["compressed"]}
    assert len(cells) == len(group["compressed"]) == 16


def test_a_single_query_has_no_compression(models: Path, say: Say) -> None:
    code, printed, _ = say("patterns", models / "gpt2", "--query", CAUSAL, "--json")
    assert code == 0
    assert json.loads(printed)["groups"][0]["compressed"] == []


def test_a_line_that_bends_is_told(models: Path, say: Say) -> None:
    """Weights are large here, and a norm that divides by little is what bends it."""
    arguments = ("patterns", models / "llama", "--query", CAUSAL, "--quiet", "--points")
    code, printed, errors = say(*arguments, 2)
    assert (code, errors) == (0, "")
    assert "warning: influences add up to" in printed
    assert "Take more `--points`." in printed
    code, printed, errors = say(*arguments, 400)
    assert (code, errors) == (0, "")
    assert "warning" not in printed


def test_the_model_of_a_run_will_do(finished: tuple[Path, RunConfig], say: Say) -> None:
    code, printed, errors = say("patterns", finished[1].run, "--query", CAUSAL, "--quiet")
    assert code == 0, errors
    assert "Influence patterns of GPT2LMHeadModel" in printed


def test_a_model_on_a_hub_is_fetched(models: Path, hub: Hub, say: Say) -> None:
    files = {file.name: file.read_bytes() for file in (models / "gpt2").iterdir()}
    hub.push("org/mine", files)
    code, printed, errors = say("patterns", "hf://org/mine", "--query", CAUSAL)
    assert code == 0, errors
    assert "Influence patterns of GPT2LMHeadModel" in printed
    assert "hf://org/mine@main is commit" in errors


def test_a_text_of_baselines_alone_has_nothing_that_flows(models: Path, say: Say) -> None:
    query = '{"text": "[MASK]", "right": "w4", "wrong": "w5"}'
    code, _, errors = say("patterns", models / "bert", "--query", query)
    assert code == 4
    assert "holds no token but those that stay as they are" in errors
    code, _, errors = say("patterns", models / "gpt2", "--query", CAUSAL.replace("w1 w2 w3", "no"))
    assert code == 4
    assert "nothing flows. Give it a text" in errors


@pytest.mark.parametrize(
    ("model", "query", "code", "phrase"),
    [
        (
            "opt",
            CAUSAL,
            4,
            "known of bert, roberta, gpt2, llama, mistral and qwen2, and the model ",
        ),
        ("opt", CAUSAL, 4, "is of the type 'opt'. Name one of those."),
        ("classifier", MASKED, 4, "patterns are of a masked language model of that type"),
        ("gpt2", MASKED, 4, "the model is a causal language model; give the question a prompt"),
        (
            "gpt2",
            CAUSAL.replace("w1", " ".join(["w1"] * 16)),
            4,
            "has 18 tokens, and the model has 16",
        ),
        ("gpt2", CAUSAL.replace(" w4", " w4 w5"), 4, "right must be one token"),
        ("bert", MASKED.replace("[MASK] ", ""), 4, "the text has no mask"),
        ("nothing", CAUSAL, 4, "there is no folder"),
    ],
)
def test_it_is_refused_in_a_sentence(
    models: Path, say: Say, model: str, query: str, code: int, phrase: str
) -> None:
    ended, printed, errors = say("patterns", models / model, "--query", query)
    assert (ended, printed) == (code, "")
    assert phrase in errors
    assert errors.count("\n") == 1


def test_a_module_of_ones_own_has_none(models: Path, say: Say, tmp_path: Path) -> None:
    values = {"run": "run", "model": str(models / "gpt2"), "model_function": "mine.py:make"}
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({**values, "objective": {"kind": "regression"}})
    )
    code, _, errors = say("patterns", tmp_path / "run.yaml", "--query", CAUSAL)
    assert code == 2, errors
    assert "patterns" in errors
