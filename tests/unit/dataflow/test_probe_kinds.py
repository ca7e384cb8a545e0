"""Texts of no corpus, scored by models with other objectives than the next token."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from other_kinds import CLASSES, CLASSIFIERS, MASK, MASKED, PAIRED, SEP, tokenizer

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.errors import InputError
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

WHOLE: dict[str, Any] = {
    "dtype": "float64",
    "attention": "eager",
    "scan": {"methods": ["gradient_product"], "rank": "dense", "top": 100},
}
ROWS = [
    {
        "text": f"w{i + 2} w{(7 * i) % 30 + 3} w{i + 5}",
        "source": f"w{i + 4} w{i + 3}",
        "class": i % 3,
    }
    for i in range(20)
]


def finished(folder: Path, model: Any, **more: Any) -> RunConfig:
    config = tiny_run(folder, pretrained=model(torch.float32), **{**WHOLE, **more})
    tokenizer().save_pretrained(folder / "model")
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    said = CLASSES[1] if "label_column" in more["corpus"] else " w7 w8"
    query = {"query_id": "q0", "prompt": "w3 w4 w5", "completion": said}
    (folder / "queries.jsonl").write_text(json.dumps(query))
    rayinfluence.run(config)
    return config


def hits(run: str) -> dict[int, float]:
    results = rayinfluence.load_results(run)
    found = results.proponents("q0") + results.opponents("q0")
    return {one.sequence_id: one.score for one in found}


@pytest.mark.parametrize("model", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_labelled_text_of_the_corpus_gets_its_scan_s_score(
    tmp_path: Path, model: Callable[..., Any]
) -> None:
    run = finished(tmp_path, model, corpus={"context": 14, "label_column": "class"}).run
    known = hits(run)
    texts = [{"prompt": ROWS[i]["text"], "completion": CLASSES[ROWS[i]["class"]]} for i in known]
    found = rayinfluence.probe(run, texts)
    scores = [one.score for one in found.scores["q0"]]
    assert scores == pytest.approx(list(known.values()), rel=1e-9)
    # By its number, too; and of another class another score.
    again = rayinfluence.probe(run, [{**texts[0], "completion": str(n)} for n in range(3)])
    assert len({one.score for one in again.scores["q0"]}) == 3
    named = again.scores["q0"][ROWS[next(iter(known))]["class"]].score
    assert named == pytest.approx(scores[0], rel=1e-9)
    with pytest.raises(InputError, match="names no class: it is 'odd'"):
        rayinfluence.probe(run, [{"prompt": "w3", "completion": "odd"}])
    with pytest.raises(InputError, match=r"'text 1' is a text alone.*its class as completion"):
        rayinfluence.probe(run, ["w3 w4"])
    with pytest.raises(InputError, match="it has 22 tokens, and is not cut"):
        rayinfluence.probe(run, [{"prompt": "w3 " * 20, "completion": "0"}])


@pytest.mark.parametrize("model", PAIRED.values(), ids=PAIRED)
def test_a_pair_of_the_corpus_gets_its_scan_s_score(
    tmp_path: Path, model: Callable[..., Any]
) -> None:
    run = finished(tmp_path, model, corpus={"context": 18, "prompt_column": "source"}).run
    known = hits(run)
    texts = [{"prompt": ROWS[i]["source"], "completion": ROWS[i]["text"]} for i in known]
    found = rayinfluence.probe(run, texts)
    assert [one.score for one in found.scores["q0"]] == pytest.approx(
        list(known.values()), rel=1e-9
    )
    with pytest.raises(InputError, match=r"'text 1' is a text alone.*its target as completion"):
        rayinfluence.probe(run, ["w3 w4"])


def test_masks_are_of_the_completion_or_drawn_alike(tmp_path: Path) -> None:
    """As for the corpus's first sequence; the same of the same text, wherever it stands."""
    config = finished(
        tmp_path, MASKED["bert"], corpus={"context": 14},
        objective={"mask_rate": 0.3}, modules="all",
    )  # fmt: skip
    known = hits(config.run)
    pair = {"prompt": "w9 w10", "completion": " w11 w12"}
    found = rayinfluence.probe(config.run, [pair, "w20 w21", ROWS[0]["text"], "w20 w21"])
    scores = [one.score for one in found.scores["q0"]]
    assert scores[2] == pytest.approx(known[0], rel=1e-9)
    assert scores[1] == pytest.approx(scores[3], rel=1e-9)
    assert found.texts[0].loss_mask == [False, False, False, True, True, False]
    # The pair beside autograd of transformers' own model.
    model = MASKED["bert"](torch.float64)
    names = rayinfluence.load_results(config.run).manifest["model"]["modules"]
    weights = [
        weight for name in names for weight in model.get_submodule(name).parameters(recurse=False)
    ]

    def gradient(tokens: list[int], first: int) -> torch.Tensor:
        """Of log p of two tokens that are masked."""
        given = torch.tensor([[*tokens[:first], MASK, MASK, *tokens[first + 2 :]]])
        log_p = model(given).logits[0].log_softmax(-1)
        value = log_p[first, tokens[first]] + log_p[first + 1, tokens[first + 1]]
        return torch.cat([one.flatten() for one in torch.autograd.grad(value, weights)])

    asked = found.queries["q0"]["tokens"]
    of_query = gradient([*asked, SEP], len(asked) - 2)
    product = float(of_query @ gradient(found.texts[0].tokens, 3))
    assert scores[0] == pytest.approx(product, rel=1e-5)
