"""Runs of models and tokenizers as people have them: what is decided for them, and said."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from scaling import Scaled, Scaling
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    BloomConfig,
    BloomForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
)

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, CorpusError, ModelError, QueryError
from rayinfluence.model import layers
from rayinfluence.model.load import load_model
from rayinfluence.report import render_page
from rayinfluence.storage.results import Results
from rayinfluence.testing import tiny_run, tiny_tokenizer
from rayinfluence.testing.models import CONTEXT, VOCABULARY

pytestmark = pytest.mark.runs

Execute = Callable[..., dict[str, Results]]
Change = Callable[..., RunConfig]


def test_a_model_without_sdpa_runs_with_eager_and_says_so(
    tmp_path: Path, execute: Execute, said: Any
) -> None:
    config = tiny_run(tmp_path)
    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "hidden_size": 12, "num_layers": 2, "num_heads": 2}
    sizes |= {"attention_types": [[["global"], 2]], "max_position_embeddings": 16}
    GPTNeoForCausalLM(GPTNeoConfig(**sizes)).save_pretrained(config.model)
    manifest = execute(config)["ekfac"].manifest
    assert "attention    eager: this model has no sdpa" in said.getvalue()
    assert manifest["numerics"]["attention"] == "eager"
    parts = [
        json.loads(p.read_text())["parts"] for p in tmp_path.glob("run/factors/*/manifest.json")
    ]
    assert [part["numerics"]["attention"] for part in parts] == ["eager"]


@pytest.mark.parametrize(
    ("key", "value", "asked", "words"),
    [
        ("_attn_implementation", "eager", "sdpa", '_attn_implementation: "eager", which is taken'),
        ("_attn_implementation", "sdpa", "eager", '_attn_implementation: "sdpa", which is taken'),
        ("_attn_implementation", None, "eager", "_attn_implementation: null, which is taken"),
        ("output_attentions", True, "sdpa", "output_attentions: true, and no other gives those"),
    ],
)
def test_a_config_that_says_how_attention_is_computed_is_told(
    tmp_path: Path, quiet: ProgressLog, said: Any, key: str, value: object, asked: str, words: str
) -> None:
    """Such a model has sdpa; it is its configuration that decides."""
    config = tiny_run(tmp_path, attention=asked)
    file = Path(config.model) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with Run(config, quiet) as run:
        used = {"sdpa": "eager", "eager": "sdpa"}[asked]
        assert run.replica.numerics.attention == used
    assert f"attention    {used}: the model's config.json has {words}" in said.getvalue()
    assert "no sdpa" not in said.getvalue()


def test_attention_that_cannot_be_had_is_refused_with_who_asked_for_it(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    file = Path(config.model) / "config.json"
    asked = {"_attn_implementation": "flash_attention_2"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **asked}))
    sentence = (
        r'Its config\.json has _attn_implementation: "flash_attention_2", which is taken before'
    )
    with pytest.raises(ModelError, match=sentence):
        load_model(config.model, torch.float32)


def tokenize(config: RunConfig, log: ProgressLog) -> dict[str, Any]:
    """The settings that the corpus is tokenised with."""
    with Run(config, log) as run:
        return asdict(run.tokenize().manifest.settings)


def long_context(config: RunConfig, length: int) -> None:
    shape = {"vocab_size": 48, "n_embd": 4, "n_layer": 1, "n_head": 1}
    GPT2LMHeadModel(GPT2Config(n_positions=length, **shape)).save_pretrained(config.model)


@pytest.mark.parametrize(
    ("length", "batch_tokens", "expected"),
    [(16, None, 16), (4096, None, 2048), (4096, 100, 100), (4096, 3000, 2048), (64, 1, 64)],
)
def test_the_default_context_is_sane_and_said(
    tmp_path: Path,
    said: Any,
    quiet: ProgressLog,
    length: int,
    batch_tokens: int | None,
    expected: int,
) -> None:
    config = tiny_run(tmp_path, 4, batch_tokens=batch_tokens)
    long_context(config, length)
    assert tokenize(config, quiet)["context"] == expected
    line = f"context      {expected:,} of the model's {length:,}; set corpus.context for another"
    assert (line in said.getvalue()) == (expected < length)


def test_a_context_that_is_set_is_taken_as_it_is(
    tmp_path: Path, said: Any, quiet: ProgressLog
) -> None:
    config = tiny_run(tmp_path, 4, corpus={"context": 3000})
    long_context(config, 4096)
    assert tokenize(config, quiet)["context"] == 3000
    assert "context      " not in said.getvalue()


def test_a_corpus_of_another_default_is_refused_by_the_setting_s_name(
    tmp_path: Path, quiet: ProgressLog, change: Change
) -> None:
    config = tiny_run(tmp_path, 4, corpus={"context": 4096})
    long_context(config, 4096)
    tokenize(config, quiet)
    with pytest.raises(CorpusError) as caught:
        tokenize(change(config, corpus={"context": None}), quiet)
    assert "other settings: corpus.context: 64, was 4096. Set" in str(caught.value)
    assert "TokenizeSettings" not in str(caught.value)


def test_of_a_model_that_sees_pictures_too_the_layers_that_text_reaches_are_tracked(
    tmp_path: Path, execute: Execute
) -> None:
    sizes = {"num_attention_heads": 2, "num_hidden_layers": 1}
    pictures = {"hidden_size": 8, "intermediate_size": 12, "image_size": 8, "patch_size": 4}
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 24,
    }
    config = Gemma3Config(
        text_config=text | sizes | {"layer_types": ["full_attention"]},
        vision_config=pictures | sizes,
        mm_tokens_per_image=1,
        image_token_index=VOCABULARY - 1,
    )
    model = Gemma3ForConditionalGeneration(config)
    results = execute(tiny_run(tmp_path, pretrained=model))
    manifest = results["ekfac"].manifest
    assert manifest["preflight"]["context"] == 24
    assert all(".language_model." in name for name in manifest["model"]["modules"])
    assert len(manifest["model"]["modules"]) == 3
    outside = ["model.vision_tower", "model.multi_modal_projector"]
    assert manifest["preflight"]["unreached"] == outside
    # One share everywhere, of what text reaches; the rest is named apart.
    found = manifest["model"]
    tracked = found["tracked_parameters"]
    reached = sum(w.numel() for n, w in model.named_parameters() if n.startswith("model.language"))
    assert (found["reached_parameters"], found["coverage"]) == (reached, tracked / reached)
    assert sum(found["untracked"].values()) == reached - tracked
    page = re.sub(r"<[^>]+>", " ", render_page(results))
    whole = f"{100 * tracked / reached:.0f}% of the "
    assert f"{whole}model&#x27;s parameters ({tracked:,} of {reached:,}), in 3 modules" in page
    assert f"{whole}parameters ({tracked:,}), 3 modules" in page
    [row] = re.findall(r"Not looked at +([^ ].*?) {2}", page)
    assert "vision" not in row
    assert "embed_tokens" in row
    assert f"Not reached by text  {', '.join(outside)}; no share here counts them." in page


def test_a_model_that_names_no_context_asks_for_one(tmp_path: Path, quiet: ProgressLog) -> None:
    config = tiny_run(tmp_path, 4)
    bloom = BloomConfig(vocab_size=48, hidden_size=8, n_layer=1, n_head=1)
    BloomForCausalLM(bloom).save_pretrained(config.model)
    with pytest.raises(ConfigError, match=r"corpus\.context: .* does not say how many tokens"):
        tokenize(config, quiet)


def test_a_tokenizer_with_a_token_too_many_works_and_the_text_that_uses_it_is_named(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, 120)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(config.model)
    assert len(tokenizer) == 49
    assert execute(config)["ekfac"].manifest["corpus"]["bad_sequences"] == []
    queries = Path(str(config.queries))
    query = {"query_id": "seen", "prompt": "w1", "completion": " w2 <image>"}
    queries.write_text(json.dumps(query))
    with pytest.raises(QueryError, match=r"'seen' has token id 48, outside .* vocabulary of 48"):
        execute(config)


def test_a_document_with_a_token_that_the_model_lacks_is_left_out_with_the_reason(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, 120)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"])
    tokenizer.save_pretrained(config.model)
    with (tmp_path / "documents.jsonl").open("a") as file:
        file.write(json.dumps({"id": "seen", "text": "w1 <image> w2", "source": "alpha"}) + "\n")
    [bad] = execute(config)["ekfac"].manifest["corpus"]["bad_sequences"]
    assert bad["reason"] == "token id 48 is outside the model's vocabulary of 48"


def test_that_a_tokenizer_would_be_rebuilt_otherwise_is_in_the_run_s_warnings(
    tmp_path: Path, quiet: ProgressLog
) -> None:
    config = tiny_run(tmp_path, 4)
    about = json.loads(Path(config.model, "tokenizer_config.json").read_text())
    about["tokenizer_class"] = "GPT2Tokenizer"
    Path(config.model, "tokenizer_config.json").write_text(json.dumps(about))
    with Run(config, quiet) as run:
        assert run.tokenizer("w5 w6").input_ids == [6, 7]
        assert "transformers makes the one of" in run.warnings[0]


def test_more_survivors_than_there_are_sequences_are_all_of_them(
    tmp_path: Path, execute: Execute, change: Change
) -> None:
    most, every = (
        execute(change(tiny_run(tmp_path / name), scan={"top": top, "token_scores": 2}))["ekfac"]
        for name, top in (("many", 10**12), ("all", 200))
    )
    columns = ["query_id", "direction", "rank", "sequence_id", "score"]
    scores = [results.table.select(columns) for results in (most, every)]
    assert scores[0].equals(scores[1])
    assert 60 <= len(scores[0]) <= 3 * most.manifest["n_sequences"]


class ScalingConfig(GPT2Config):
    model_type = "scaling"


class ScalingModel(GPT2LMHeadModel):
    """A GPT-2 with a layer of a kind that is not ours in its last block."""

    config_class = ScalingConfig

    def __init__(self, config: ScalingConfig) -> None:
        super().__init__(config)
        self.transformer.h[-1].mlp.c_fc = Scaling(config.n_embd, 4 * config.n_embd)


def test_a_kind_of_layer_that_is_registered_is_tracked_in_a_whole_run(
    tmp_path: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "LAYERS", (*layers.LAYERS, Scaled()))
    for mapping, key, value in (
        (CONFIG_MAPPING, "scaling", ScalingConfig),
        (MODEL_FOR_CAUSAL_LM_MAPPING, ScalingConfig, ScalingModel),
    ):
        monkeypatch.setitem(mapping._extra_content, key, value)
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 12, "n_layer": 2}
    model = ScalingModel(ScalingConfig(**sizes, n_head=2, bos_token_id=0, eos_token_id=0))
    results = execute(tiny_run(tmp_path, pretrained=model, scan={"top": 5, "split_tokens": 120}))
    found = results["ekfac"].table["layer_scores"].to_pylist()
    assert found
    assert all(dict(one)["transformer.h.1.mlp.c_fc"] for one in found)
