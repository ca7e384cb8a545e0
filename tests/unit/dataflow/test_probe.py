"""Texts of no corpus: the scan's scores where they are in one, and autograd's where not."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from whole_runs import add_query

import rayinfluence
from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.probes import Probing, probes_of
from rayinfluence.dataflow.layout import query_key
from rayinfluence.dataflow.probing import probe_own
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.queries import queries_fingerprint
from rayinfluence.errors import (
    ConfigError,
    InputError,
    ModelError,
    NumericsError,
    RayInfluenceError,
    StorageError,
)
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors
from rayinfluence.testing import tiny_run

pytestmark = pytest.mark.runs

METHODS = ["ekfac", "kfac", "gradient_product", "cosine", "bm25"]
NEW = "w3 w9 w2 w11 w3"

Copy = Callable[[Path, RunConfig, Path], RunConfig]
Exact = tuple[Path, RunConfig]


def execute(config: RunConfig) -> None:
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.all()


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Exact:
    """A run in float64 by all methods; nobody may change it."""
    folder = tmp_path_factory.mktemp("exact")
    config = tiny_run(folder, 30, dtype="float64", scan={"methods": METHODS})
    execute(config)
    return folder, config


@pytest.fixture
def own(exact: Exact, tmp_path: Path, copy_of: Copy) -> Exact:
    folder = tmp_path / "own"
    return folder, copy_of(*exact, folder)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything in a folder, with when it was written."""
    found = {p: p.stat() for p in folder.rglob("*")}
    return {str(p): (about.st_mtime_ns, about.st_size) for p, about in found.items()}


@pytest.mark.parametrize("method", METHODS)
def test_a_text_of_the_corpus_gets_its_scan_s_score(exact: Exact, method: str) -> None:
    run = exact[1].run
    results = rayinfluence.load_results(run, method)
    known = [
        one
        for query in results.queries
        for one in results.proponents(query) + results.opponents(query)
        if one.token_start == 0
    ]
    assert len(known) > 8
    probed = rayinfluence.probe(run, [one.text for one in known], method=method)
    for place, one in enumerate(known):
        found = probed.scores[one.query_id][place]
        assert probed.texts[place].tokens == one.tokens
        assert found.score == pytest.approx(one.scan_score, rel=1e-9)
        assert sum(found.token_scores) == pytest.approx(found.score, rel=1e-9)
        assert len(found.token_scores) == len(probed.texts[place].token_texts) == one.n_tokens
        assert list(found.layer_scores) == list(one.layer_scores)
        if one.layer_scores:
            assert sum(found.layer_scores.values()) == pytest.approx(found.score, rel=1e-9)
        predicts = method in ("ekfac", "kfac")
        n = results.manifest["n_training_sequences"]
        assert found.delta_nats == (found.score / n if predicts else None)


@pytest.mark.parametrize("method", METHODS)
def test_texts_with_queries_of_their_own_get_the_scores_that_all_pairs_have(
    exact: Exact, method: str
) -> None:
    config, texts = exact[1], [NEW, "w5 w6 w7", "w9 w3 w1 w5"]
    own = ["q1", "q0", "q1"]
    probing = Probing.of(config, probes_of(texts), own, method)
    seen, scores = probe_own(probing, own)
    probed = rayinfluence.probe(config, texts, queries=["q0", "q1"], method=method)
    assert seen == probed.texts
    wanted = [probed.scores[query][place].score for place, query in enumerate(own)]
    assert scores == pytest.approx(wanted, rel=1e-12)
    assert len(set(wanted)) == len(wanted)


def test_another_text_gets_the_score_of_autograd(exact: Exact) -> None:
    config = exact[1]
    probed = rayinfluence.probe(config, [NEW], queries=["q1"])
    assert list(probed.scores) == ["q1"]
    model = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float64).eval()
    tokens = torch.tensor(probed.texts[0].tokens)
    assert tokens.tolist() == [4, 10, 3, 12, 4]
    log_ps = model(tokens[None]).logits[0, :-1].log_softmax(dim=-1)
    log_ps.gather(1, tokens[1:, None]).sum().backward()
    digest = rayinfluence.load_results(config.run).queries["q1"]["digest"]
    manifests = (Path(config.run) / "scan").glob("*/manifest.json")
    [bank] = [b for b in map(json.loads, map(Path.read_text, manifests)) if b["method"] == "ekfac"]
    folder = queries_fingerprint(bank["base"]["queries"], None)
    query = read_tensors(Store(config.run) / "queries" / folder, query_key(digest))[0]
    wanted = 0.0
    for name in {name.rpartition("/")[0] for name in query}:
        layer = model.get_submodule(name)
        gradient_OJ = torch.cat([layer.weight.grad.T, layer.bias.grad[:, None]], dim=1)
        query_OJ = query[f"{name}/left"].double() @ query[f"{name}/right"].double().T
        assert torch.linalg.matrix_rank(query_OJ) == 4
        wanted += float((query_OJ * gradient_OJ).sum())
    assert probed.scores["q1"][0].score == pytest.approx(wanted, rel=1e-9)


def test_a_token_s_score_is_about_what_follows_it(exact: Exact) -> None:
    """Nothing follows the last; by a method that reads texts a token's score is its own."""
    run = exact[1].run
    of_model = rayinfluence.probe(run, [NEW]).scores["q0"][0].token_scores
    assert of_model[-1] == 0
    assert all(of_model[:-1])
    asked = rayinfluence.load_results(run).queries["q0"]
    word = asked["completion"].split()[0]
    text = f"{word} {NEW}" if word not in NEW.split() else NEW
    by_words = rayinfluence.probe(run, [text], method="bm25", queries=["q0"])
    asked_words = {*asked["prompt"].split(), *asked["completion"].split()}
    shown = zip(text.split(), by_words.scores["q0"][0].token_scores, strict=True)
    assert [bool(score) for _, score in shown] == [w in asked_words for w in text.split()]


def test_partitions_have_means(exact: Exact) -> None:
    texts = {"one": [NEW], "more": ["w1 w2", "w5 w6 w7"]}
    probed = rayinfluence.probe(exact[1].run, texts, queries=["q2", "q0", "q2"])
    assert list(probed.scores) == ["q2", "q0"]
    assert [text.name for text in probed.texts] == ["one 1", "more 1", "more 2"]
    scores = [one.score for one in probed.scores["q2"]]
    one, more = probed.partitions("q2")
    assert (one.name, one.n_texts, one.score) == ("one", 1, scores[0])
    assert (more.name, more.n_texts) == ("more", 2)
    assert more.score == pytest.approx((scores[1] + scores[2]) / 2)
    assert more.delta_nats == pytest.approx(more.score / probed.n_training_sequences)


def test_nothing_is_written_and_nothing_of_the_corpus_is_read(own: Exact) -> None:
    folder, config = own
    whole = rayinfluence.probe(config.run, [NEW])
    shutil.rmtree(Path(config.run) / "corpus")
    (folder / "documents.jsonl").unlink()
    (folder / "queries.jsonl").unlink()
    before = contents(folder)
    assert rayinfluence.probe(config.run, [NEW]) == whole
    assert contents(folder) == before


def test_there_is_no_ray(exact: Exact) -> None:
    program = f"""
import sys
sys.modules["ray"] = None
import rayinfluence
print(len(rayinfluence.probe({exact[1].run!r}, [{NEW!r}], queries=["q0"]).scores["q0"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


def test_a_text_that_is_too_long_is_cut(exact: Exact) -> None:
    long = " ".join(f"w{i}" for i in range(20))
    whole, cut = rayinfluence.probe(exact[1].run, [long, long.rsplit(" ", 4)[0]]).texts
    assert (len(whole.tokens), whole.n_cut, whole.text) == (16, 4, long)
    assert (cut.tokens, cut.n_cut) == (whole.tokens, 0)


def test_a_query_that_was_added_later_is_asked_too(own: Exact) -> None:
    folder, config = own
    add_query(folder)
    execute(config)
    assert len(rayinfluence.load_results(config.run).manifest["methods"]["ekfac"]["banks"]) == 2
    probed = rayinfluence.probe(config, [NEW])
    assert list(probed.scores) == ["q0", "q1", "q2", "new"]
    alone = rayinfluence.probe(config, [NEW], queries=["new"]).scores["new"][0]
    assert probed.scores["new"][0].score == pytest.approx(alone.score, rel=1e-9)


def other_weights(config: RunConfig) -> None:
    path = Path(config.model) / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.ln_f.weight"] *= 2
    save_file(tensors, path, metadata={"format": "pt"})


def endless_weights(config: RunConfig) -> None:
    path = Path(config.model) / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.ln_f.weight"] *= float("inf")
    save_file(tensors, path, metadata={"format": "pt"})


def other_tokenizer(config: RunConfig) -> None:
    path = Path(config.model) / "tokenizer.json"
    path.write_text(path.read_text().replace("w45", "v45"))


def change_manifests(config: RunConfig, old: str, new: str) -> None:
    for path in (Path(config.run) / "scan").glob("*/manifest.json"):
        text = path.read_text()
        assert re.search(old, text)
        manifest = json.loads(re.sub(old, new, text))
        del manifest["seal"]
        path.write_text(json.dumps(manifest))


WRONG: dict[str, tuple[Callable[[RunConfig], Any], type[RayInfluenceError], str]] = {
    "other weights": (other_weights, ModelError, "weights: 1 of .* differ, first transformer.ln_f"),
    "weights that are not finite": (endless_weights, NumericsError, "ln_f.weight holds NaN or inf"),
    "another tokenizer": (other_tokenizer, ModelError, "is not the one .* was made with"),
    "no model": (lambda c: shutil.rmtree(c.model), ModelError, "there is no folder .*model"),
    "no results": (
        lambda c: shutil.rmtree(Path(c.run) / "results"),
        StorageError,
        "no results yet: `rayinfluence run`",
    ),
    "no banks": (
        lambda c: shutil.rmtree(Path(c.run) / "scan"),
        StorageError,
        "not the queries that they are of: `rayinfluence run`",
    ),
    "no queries": (
        lambda c: shutil.rmtree(Path(c.run) / "queries"),
        StorageError,
        "does not hold query 'q0' by ekfac any more: `rayinfluence run`",
    ),
    "another release": (
        lambda c: change_manifests(c, r'"version": \d+', '"version": 0'),
        ConfigError,
        "are of numerics version 0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_the_run_s_is_refused(own: Exact, name: str) -> None:
    change, error, said = WRONG[name]
    change(own[1])
    with pytest.raises(error, match=said):
        rayinfluence.probe(own[1], [NEW])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["w1 w2", "w1"], "'text 2' cannot be scored: 1 tokens; at least 2"),
        ({"mine": ["w1 w2"], "hers": ["w3"]}, "'hers 1' cannot be scored"),
        (["w1 w2", " \n"], "'text 2' is empty"),
        ([], "'text': a list of one or more texts is asked for, and it is empty."),
        ({}, "there is no text to score"),
        ({"mine": []}, "'mine': a list of one or more texts is asked for, and it is empty."),
        ("w1 w2", "one string, where a list"),
        (["w1 \ud800"], r"'text 1' is no text: it has \\ud800, half a character"),
        ([b"w1 w2"], "'text 1' is .* reads as bytes, and no text"),
    ],
)
def test_a_text_that_cannot_be_scored_is_named(exact: Exact, texts: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        rayinfluence.probe(exact[1].run, texts)


def test_queries_and_methods_that_the_run_lacks_are_refused(exact: Exact) -> None:
    with pytest.raises(ConfigError, match="no results of a query 'mine'; it has 'q0', 'q1', 'q2'"):
        rayinfluence.probe(exact[1].run, [NEW], queries=["mine"])
    with pytest.raises(StorageError, match="no results of method 'none'"):
        rayinfluence.probe(exact[1].run, [NEW], method="none")
