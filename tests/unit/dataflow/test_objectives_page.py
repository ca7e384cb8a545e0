"""Every example of docs/objectives.md, in a whole run, and what results and reports say of it."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, QueryError, RayInfluenceError
from rayinfluence.report import render, render_page
from rayinfluence.storage.results import LINEAR_RANGE, Results
from rayinfluence.testing import tiny_run
from rayinfluence.testing.models import CONTEXT

pytestmark = pytest.mark.runs

PAGE = (Path(__file__).parents[3] / "docs" / "objectives.md").read_text()
METHODS = ["ekfac", "gradient_product", "bm25"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def module(name: str) -> str:
    """The example that is a module of this name."""
    [found] = [block for block in blocks("python") if block.startswith(f"# {name}.py")]
    return found


LINES = [json.loads(line) for block in blocks("json") for line in block.splitlines()]


def configured(folder: Path, lines: list[dict[str, Any]], **more: Any) -> RunConfig:
    """A run on a tiny model whose words are those of the examples."""
    config = tiny_run(folder, scan={"methods": METHODS, "rank": "dense", "top": 20}, **more)
    words = [*sorted(set(re.findall(r"[A-Za-z<>]+", json.dumps(lines)))), "assistant"]
    vocabulary = {word: i for i, word in enumerate(["<unk>", *(f"\u2581{word}" for word in words)])}
    assert len(vocabulary) <= 48
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", model_max_length=CONTEXT
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, 9)) for _ in range(20)]
    rows = [{"id": str(i), "text": text, "source": "x"} for i, text in enumerate(texts)]
    (folder / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return config


def ran(config: RunConfig) -> dict[str, Results]:
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        return run.all()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    return ran(configured(tmp_path_factory.mktemp("objectives"), LINES))


def scores(results: Results, query_id: str) -> dict[int, float]:
    found = results.proponents(query_id) + results.opponents(query_id)
    return {survivor.sequence_id: survivor.score for survivor in found}


def test_every_example_is_asked(results: dict[str, Results]) -> None:
    ids = [line["query_id"] for line in LINES]
    ids[ids.index("several") : ids.index("several") + 1] = ["several/0", "several/1"]
    assert list(results["ekfac"].queries) == ids
    assert all(scores(results["ekfac"], query_id) for query_id in ids)


def test_of_all_queries_sets_too_those_are_counted_that_the_model_would_hardly_say(
    results: dict[str, Results],
) -> None:
    found = results["ekfac"]
    (told,) = [said for said in found.warnings if "would hardly say the completion" in said]
    unlikely = [query for query in found.queries.values() if query["warning"]]
    assert any(query["set"] for query in unlikely)
    assert f"of {len(unlikely)} of {len(found.queries)} queries" in told


def test_results_say_what_was_asked_for(results: dict[str, Results]) -> None:
    queries = results["ekfac"].queries
    said = {query_id: (row["objective"], row["unit"]) for query_id, row in queries.items()}
    plain = ("log-probability of the completion", "nats")
    assert said == {
        "plain": plain,
        "mean": ("mean log-probability per token of the completion", "nats per token"),
        "part": ("log-probability of the completion at its characters 14 to 19", "nats"),
        "contrast": ("log-probability of the completion rather than of another", "nats"),
        "logit": ("logit of the completion", "logits"),
        "margin": ("margin against all others of the completion", "nats"),
        "margin of two": ("log-probability of the completion rather than of another", "nats"),
        "several/0": plain,
        "several/1": plain,
        "set": ("log-probability of 2 completions, summed by their weights", "nats"),
        "whole": plain,
        "chat": plain,
        "ended": plain,
    }
    for query_id, row in queries.items():
        manifest = results["ekfac"].manifest["queries"]
        [entry] = [one for one in manifest if one["query_id"] == query_id]
        assert entry["value"] == row["value"]


def test_values_are_what_their_parts_say(results: dict[str, Results]) -> None:
    queries = results["ekfac"].queries
    plain, mean, part = queries["plain"], queries["mean"], queries["part"]
    one, two = queries["several/0"], queries["several/1"]
    assert plain["value"] == plain["log_probability"] == one["value"]
    assert mean["value"] == pytest.approx(mean["log_probability"] / 4)
    assert mean["log_probability"] == pytest.approx(sum(mean["token_log_probabilities"]))
    assert part["token_texts"] == [" Paris", " on", " the", " Seine"]
    assert part["token_counts"] == [False, False, False, True]
    assert part["value"] == part["token_log_probabilities"][3]
    contrast = queries["contrast"]
    assert contrast["rather_than"] == " Lyon"
    assert contrast["rather_than_log_probability"] == two["log_probability"]
    assert contrast["value"] == pytest.approx(one["value"] - two["value"])
    members = queries["set"]["set"]
    assert [member["weight"] for member in members] == [1, -1]
    assert queries["set"]["value"] == pytest.approx(
        members[0]["log_probability"] - members[1]["log_probability"]
    )
    assert members[0]["log_probability"] == plain["value"]
    assert queries["set"]["prompt"] is queries["set"]["log_probability"] is None
    assert queries["chat"]["prompt"] == "user The capital of France is <end> assistant "
    assert queries["ended"]["token_texts"] == [" Paris", " <end>"]


def test_margins_and_logits_are_those_of_the_model(results: dict[str, Results]) -> None:
    queries = results["ekfac"].queries
    p = np.exp(queries["plain"]["log_probability"])
    assert queries["margin"]["value"] == pytest.approx(np.log(p / (1 - p)), rel=1e-5)
    assert queries["margin"]["measurement"] == "margin"
    assert queries["margin"]["log_probability"] == queries["plain"]["log_probability"]
    # The same question, which is asked once.
    assert queries["margin of two"]["digest"] == queries["contrast"]["digest"]
    assert queries["logit"]["value"] != queries["plain"]["value"]


@pytest.mark.parametrize("method", ["ekfac", "gradient_product"])
def test_a_contrast_is_the_difference_of_its_sides(
    results: dict[str, Results], method: str
) -> None:
    found = [scores(results[method], name) for name in ("several/0", "several/1", "contrast")]
    shared = set.intersection(*map(set, found))
    largest = max(map(abs, found[2].values()))
    assert len(shared) > 9
    for sequence in shared:
        one, two, difference = (of[sequence] for of in found)
        assert difference == pytest.approx(one - two, abs=1e-4 * largest)


def test_a_mean_is_not_predicted_and_a_difference_has_no_bound(
    results: dict[str, Results],
) -> None:
    table = results["ekfac"].survivors.to_pylist()
    for row in table:
        query = results["ekfac"].queries[row["query_id"]]
        assert row["query_id"] != "logit" or query["unit"] == "logits"
        if query["unit"] != "nats":
            assert row["delta_nats"] is row["beyond_linear"] is None
        elif row["query_id"] in ("contrast", "margin", "margin of two", "set"):
            assert row["beyond_linear"] is (abs(row["delta_nats"]) > LINEAR_RANGE)
        else:
            assert row["delta_nats"] is not None
    assert {row["query_id"] for row in table} >= {"mean", "contrast", "set", "logit", "margin"}


def test_page_and_terminal_say_what_was_asked_for(results: dict[str, Results]) -> None:
    page = render_page(results)
    file = io.StringIO()
    render(results["ekfac"], Console(file=file, width=120))
    terminal = file.getvalue()
    assert "rather than <bdi> Lyon</bdi>" in page.replace("<bdi>Lyon", "<bdi> Lyon")
    assert "raise the completion&#x27;s probability against the other" in page.replace(
        "&#39;", "&#x27;"
    )
    assert re.search(r"is → Paris rather than Lyon\n", terminal)
    mean = results["ekfac"].queries["mean"]["value"]
    for text in (page, terminal):
        assert (
            f"mean log-probability per token of the completion: {mean:.3g} nats per token" in text
        )
        assert "log-probability of 2 completions, summed by their weights" in text
        assert "-1 times" in text
    assert "-1 times The capital of Italy is → Paris" in terminal


def test_a_function_is_asked_of_every_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in LINES if not line.keys() & {"reduction", "spans", "measurement"}]
    [setting] = [one for one in blocks("yaml") if one.startswith("query_function")]
    key, name = setting.strip().split(": ")
    (tmp_path / "margins.py").write_text(module("margins"))
    monkeypatch.syspath_prepend(str(tmp_path))
    config = configured(tmp_path, lines, **{key: name})
    results = ran(config)
    queries = results["ekfac"].queries
    assert (
        queries["contrast"]["objective"]
        == "margins:margin of the completion rather than of another"
    )
    assert {row["unit"] for row in queries.values()} == {"that of query_function"}
    assert all(row["value"] <= 0 for row in (queries["plain"], queries["chat"]))
    difference = queries["several/0"]["value"] - queries["several/1"]["value"]
    assert queries["contrast"]["value"] == pytest.approx(difference)
    assert results["ekfac"].survivors["delta_nats"].null_count == len(results["ekfac"].survivors)
    assert "margins:margin of the completion:" in render_page(results)
    # Another source is another question, by the same name.
    (tmp_path / "margins.py").write_text(module("margins").replace("logits_V.max()", "0"))
    monkeypatch.delitem(sys.modules, "margins")
    again = ran(config)
    assert again["ekfac"].queries["plain"]["digest"] != queries["plain"]["digest"]
    assert again["ekfac"].queries["plain"]["value"] != queries["plain"]["value"]


def test_a_function_is_what_training_maximised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [settings] = [
        found
        for block in blocks("yaml")
        if (found := yaml.safe_load(block)).get("objective") == "smoothing:smoothed"
    ]
    (tmp_path / "smoothing.py").write_text(module("smoothing"))
    monkeypatch.syspath_prepend(str(tmp_path))
    results = ran(configured(tmp_path, LINES[:1], **settings))["ekfac"]
    assert results.manifest["objective"]["function"] == "smoothing:smoothed"
    assert len(scores(results, "plain")) > 9
    assert results.survivors["delta_nats"].null_count == len(results.survivors)


@pytest.mark.parametrize(
    ("line", "more", "error", "why"),
    [
        ({"reduction": "mean"}, {"query_function": "json:loads"}, QueryError, "has a reduction, a"),
        ({"measurement": "margin"}, {"query_function": "json:loads"}, QueryError, "a measurement"),
        ({}, {"query_function": "json:nothing"}, ConfigError, "json defines no function nothing"),
        ({}, {"query_function": "not_there:f"}, ConfigError, "there is no module not_there"),
    ],
)
def test_a_function_that_is_not_there_is_refused_before_anything_runs(
    tmp_path: Path,
    line: dict[str, Any],
    more: dict[str, Any],
    error: type[RayInfluenceError],
    why: str,
) -> None:
    config = configured(tmp_path, [{**LINES[0], **line}], **more)
    with pytest.raises(error, match=why):
        ran(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["margin", "a:b:c", "os; x:f", "../x:f", ":f", ""])
def test_a_function_is_named_by_module_and_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="query_function"):
        configured(tmp_path, LINES[:1], query_function=name)


def test_messages_without_a_template_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    config = configured(tmp_path, [line for line in LINES if line["query_id"] == "chat"])
    (tmp_path / "model" / "chat_template.jinja").unlink()
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(QueryError, match="query 'chat': the tokenizer has no chat template"):
        ran(config)


def test_texts_that_act_on_pages_and_terminals_are_text_in_every_form(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>\x1b[31m\x00\u202e &lt;b&gt; [bold]"
    lines = [
        {"query_id": "c", "prompt": hostile, "completion": " Paris", "rather_than": f" {hostile}"},
        {"query_id": "s", "set": [{"prompt": hostile, "completion": f"Paris {hostile}"}]},
        {"query_id": "m", "messages": [{"role": "assistant", "content": hostile}]},
        {"query_id": "n", "prompt": hostile, "completion": hostile, "spans": [[0, 9]]},
    ]
    results = ran(configured(tmp_path, lines))
    page = render_page(results)
    file = io.StringIO()
    render(results["ekfac"], Console(file=file, width=120))
    assert "<img" not in page
    for text in (page, file.getvalue()):
        assert not {"\x1b", "\x00", "\u202e"} & set(text)
    assert results["ekfac"].queries["c"]["rather_than"] == f" {hostile}"
    assert "[bold]" in file.getvalue()
