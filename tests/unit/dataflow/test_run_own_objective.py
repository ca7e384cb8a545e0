"""Whole runs whose training maximised a function of the user's own, and what is refused of it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from other_kinds import CLASSES, bert, bert_classifier, t5, tokenizer
from rich.console import Console

import rayinfluence
from rayinfluence import run
from rayinfluence.cli import main
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError
from rayinfluence.report import render, render_page
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

SUM = """
from torch.nn.functional import cross_entropy

def objective(logits, labels, tokens, lengths):
    return -cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)

def twice(logits, labels, tokens, lengths):
    return 2 * objective(logits, labels, tokens, lengths)

def of_classes(logits, labels, tokens, lengths):
    return -cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)

def over_the_batch(logits, labels, tokens, lengths):
    return objective(logits, labels, tokens, lengths) / len(lengths)

def not_of_long_ones(logits, labels, tokens, lengths):
    return objective(logits, labels, tokens, lengths) * (12 - lengths).log()

def failing_on_short_ones(logits, labels, tokens, lengths):
    assert lengths.min() > 4, "too short"
    return objective(logits, labels, tokens, lengths)
"""
DATA = {"labels": "data"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's, of another name each time, as modules are imported once."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SUM)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def scores(results: Results, query_id: str) -> dict[int, float]:
    found = results.proponents(query_id) + results.opponents(query_id)
    return {one.sequence_id: one.score for one in found}


METHODS = ["ekfac", "gradient_product", "self_influence", "bm25"]
SCAN = {"methods": METHODS, "rank": "dense", "top": 100}


def configured(folder: Path, function: str | None, **more: Any) -> RunConfig:
    objective = {} if function is None else {"objective": {"kind": function}}
    settings = {"scan": SCAN, "fit": DATA, "dtype": "float64", **objective, **more}
    return tiny_run(folder, 30, **settings)


def test_a_function_that_is_the_log_probability_scores_as_that_does(
    tmp_path: Path, module: str
) -> None:
    run(configured(tmp_path / "a", None))
    run(configured(tmp_path / "b", f"{module}:objective"))
    for method in METHODS:
        plain, own = (
            rayinfluence.load_results(str(tmp_path / name / "run"), method) for name in "ab"
        )
        for query_id in plain.queries:
            expected, found = scores(plain, query_id), scores(own, query_id)
            assert expected.keys() == found.keys()
            largest = max((abs(one) for one in expected.values()), default=0.0)
            for sequence_id, score in expected.items():
                assert found[sequence_id] == pytest.approx(score, abs=1e-6 * largest)


def test_another_function_is_another_objective(tmp_path: Path, module: str) -> None:
    """Gradients of the corpus twice as large, and factors four times."""
    one = run(
        configured(tmp_path / "a", f"{module}:objective", scan={**SCAN, "damping_scale": 0.1})
    )
    two = run(configured(tmp_path / "b", f"{module}:twice", scan={**SCAN, "damping_scale": 0.1}))
    expected, found = scores(one, "q0"), scores(two, "q0")
    assert len(expected) > 20
    largest = max(map(abs, expected.values()))
    for sequence_id, score in expected.items():
        assert found[sequence_id] == pytest.approx(score / 2, abs=1e-6 * largest)


def test_results_and_reports_say_what_was_maximised_and_predict_nothing(
    tmp_path: Path, module: str
) -> None:
    function = f"{module}:objective"
    config = configured(tmp_path, function)
    run(config)
    by_method = {name: rayinfluence.load_results(config.run, name) for name in METHODS}
    ekfac = by_method["ekfac"]
    told = ekfac.manifest["objective"]
    assert (told["kind"], told["function"], told["loss"]) == ("causal", function, "all")
    assert ekfac.manifest["numerics"]["function"]["name"] == function
    for name in ("ekfac", "self_influence"):
        survivors = by_method[name].survivors
        assert survivors["delta_nats"].null_count == len(survivors) > 0
        assert not by_method[name].meaning.predicts
        unit = survivors.schema.field("score").metadata[b"unit"]
        assert unit == b"none: only the order means something"
    assert by_method["ekfac"].queries["q0"]["unit"] == "nats"
    page, file = render_page(by_method), io.StringIO()
    render(ekfac, Console(file=file, width=120))
    assert f"it maximised {function}, a function of the user&#39;s own" in page.replace(
        "&#x27;", "&#39;"
    )
    assert "no delta nats" in page
    probed = rayinfluence.probe(config.run, ["w1 w2 w3"])
    assert probed.scores["q0"][0].delta_nats is None


def test_a_text_of_the_corpus_that_is_probed_gets_its_score(tmp_path: Path, module: str) -> None:
    config = configured(tmp_path, f"{module}:twice")
    results = run(config)
    hit = results.proponents("q0")[0]
    probed = rayinfluence.probe(config.run, [hit.text])
    assert probed.scores["q0"][0].score == pytest.approx(hit.score, rel=1e-9)


def test_another_source_of_the_same_name_is_another_objective(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, f"{module}:objective", scan={**SCAN, "methods": ["ekfac"]})
    first = run(config)
    path = tmp_path / f"{module}.py"
    path.write_text(SUM.replace("return -cross", "return -2 * cross"))
    with pytest.raises(ConfigError, match="was changed since this process imported it"):
        run(config)
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ConfigError, match=r"numerics\.function\.digest"):
        run(config)
    with Run(config, ProgressLog(Console(file=io.StringIO())), new_run=True) as again:
        found = again.all()["ekfac"]
    assert found.manifest["fingerprint"] != first.manifest["fingerprint"]
    twice = scores(found, "q0")
    for sequence_id, score in scores(first, "q0").items():
        assert twice[sequence_id] == pytest.approx(score / 2, rel=1e-6)


OTHERS = {
    "bert": (bert, "objective", {}),
    "classes": (bert_classifier, "of_classes", {"label_column": "class"}),
    "t5": (t5, "objective", {"prompt_column": "prompt"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_other_kinds_have_theirs(tmp_path: Path, module: str, name: str) -> None:
    make, function, corpus = OTHERS[name]
    pretrained = make(torch.float32, "sdpa" if name != "t5" else "eager")
    config = configured(
        tmp_path,
        f"{module}:{function}",
        pretrained=pretrained,
        dtype="float32",
        modules=["*.layer.*"] if name != "t5" else ["*.block.*"],
        corpus={**corpus, "context": 16},
    )
    tokenizer().save_pretrained(tmp_path / "model")
    generator = np.random.default_rng(0)
    rows = [
        {
            "prompt": " ".join(f"w{i}" for i in generator.integers(0, 40, 3)),
            "text": " ".join(f"w{i}" for i in generator.integers(0, 40, 4)),
            "class": CLASSES[place % 3],
        }
        for place in range(20)
    ]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    completion = CLASSES[1] if name == "classes" else " w5"
    query = {"query_id": "q0", "prompt": "w1 w2 w3", "completion": completion}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query))
    results = run(config)
    assert len(scores(results, "q0")) == 20
    assert results.manifest["objective"]["function"] == f"{module}:{function}"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"fit": {}}, "fit.labels: sampled, and .* has no distribution .* Set `fit.labels: data`"),
        ({"objective": {"reduction": "mean"}}, "objective: mine:f says by itself .* reduction"),
        ({"scan": {"token_influences": 2}}, "scan.token_influences: they are parts of"),
    ],
)
def test_what_does_not_go_with_a_function_is_refused_with_the_configuration(
    tmp_path: Path, more: dict[str, Any], why: str
) -> None:
    settings: dict[str, Any] = {"fit": DATA, **more}
    settings["objective"] = {"kind": "mine:f", **settings.get("objective", {})}
    with pytest.raises(ConfigError, match=why):
        tiny_run(tmp_path, **settings)


@pytest.mark.parametrize("name", ["a:b:c", "os; x:f", "../x:f", ":f", "f:", "nothing"])
def test_a_kind_is_one_of_ours_or_a_module_and_a_function(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"objective\.kind: must be .*module:function"):
        tiny_run(tmp_path, objective={"kind": name}, fit=DATA)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("no_such_module:f", "objective.kind: there is no module no_such_module"),
        ("{}:nothing", "defines no function nothing; write `def nothing.logits_BTV, labels_BT"),
        ("{}:over_the_batch", "Influence is of a sum over sequences"),
    ],
)
def test_a_function_that_will_not_do_is_refused_before_a_document_is_read(
    tmp_path: Path, module: str, function: str, why: str
) -> None:
    config = configured(tmp_path, function.format(module))
    with pytest.raises(ConfigError, match=why):
        run(config)
    assert not (tmp_path / "run" / "corpus").exists()


def test_sequences_whose_value_is_not_finite_are_counted_with_the_reason(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayinfluence.model.own_objective_checks._LENGTHS", (7, 11, 9))
    monkeypatch.setattr("rayinfluence.dataflow.compute.quarantine.QUARANTINE_LIMIT", 1.0)
    function = f"{module}:not_of_long_ones"
    config = configured(tmp_path, function, scan={"methods": ["gradient_product"]})
    results = run(config)
    quarantined = results.manifest["methods"]["gradient_product"]["quarantined"]
    assert quarantined
    assert {one["reason"] for one in quarantined} == {
        f"its {function} (objective.kind) is not finite"
    }


def test_a_function_that_fails_on_the_corpus_alone_is_named(tmp_path: Path, module: str) -> None:
    config = configured(tmp_path, f"{module}:failing_on_short_ones")
    with pytest.raises(ConfigError, match=r"fails on a batch of .*: AssertionError: too short"):
        run(config)


def test_the_command_line_says_so_with_code_2(
    tmp_path: Path, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path, f"{module}:over_the_batch")
    (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump()))
    with pytest.raises(SystemExit) as caught:
        main(["run", str(tmp_path / "run.yaml")])
    assert caught.value.code == 2
    assert "over_the_batch gives" in " ".join(capsys.readouterr().err.split())
