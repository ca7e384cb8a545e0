"""What a run says and refuses before a document is read."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from masked import tiny_bert, tiny_roberta
from rich.console import Console
from transformers import (
    AutoModelForCausalLM,
    BertLMHeadModel,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin import preflight
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ConfigError, ModelError
from rayinfluence.model import load
from rayinfluence.model.preflight import Passed
from rayinfluence.testing import tiny_run, tiny_tokenizer

Change = Callable[..., RunConfig]
Execute = Callable[..., Any]


def begun(config: RunConfig) -> tuple[Run, str]:
    said = io.StringIO()
    with Run(config, ProgressLog(Console(file=said, width=1000))) as run:
        run.begin()
    return run, said.getvalue()


def nothing_was_read(config: RunConfig) -> bool:
    return not (Path(config.run) / "corpus").exists()


def test_a_run_says_how_much_of_the_model_is_tracked(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    run, said = begun(config)
    tracked = sum(shape.n_parameters for shape in run.replica.shapes.values())
    whole = sum(weight.numel() for weight in run.replica.model.parameters())
    assert f"GPT2LMHeadModel: {tracked / whole:.1%} of {whole:,} parameters are tracked" in said
    assert "in 4 layers" in said
    assert nothing_was_read(config)


def test_a_warning_names_what_is_not_tracked_where_that_is_nearly_all(
    tmp_path: Path, change: Change
) -> None:
    config = change(tiny_run(tmp_path), modules=["transformer.h.0.attn.c_proj"])
    run, said = begun(config)
    assert "warning: only 3." in said
    assert "are tracked, in transformer.h.0.attn.c_proj; scores say nothing" in said
    assert "`modules: [transformer.h.*.attn.*, transformer.h.*.mlp.*]`, with 9" in said
    assert "transformer.h.*.mlp.c_fc.weight (" in said
    assert any("of the model's parameters are tracked" in warning for warning in run.warnings)


def test_where_a_model_has_no_mlp_all_layers_of_its_blocks_are_tracked_and_it_is_said(
    tmp_path: Path,
) -> None:
    config = tiny_run(tmp_path, corpus={"context": 16})
    sizes = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    torch.manual_seed(0)
    mamba = MambaConfig(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    MambaForCausalLM(mamba).save_pretrained(config.model)
    run, said = begun(config)
    assert "in 6 layers, all of its blocks, as no MLP is among them" in said
    assert {name.rpartition(".")[2] for name in run.replica.modules} == {
        "in_proj",
        "x_proj",
        "out_proj",
    }


def test_a_run_warns_of_a_completion_s_token_that_is_not_scored(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    line = {"query_id": "a", "prompt": "", "completion": "w1 w2"}
    (tmp_path / "queries.jsonl").write_text(json.dumps(line))
    run, said = begun(config)
    [warning] = run.warnings
    assert "the first token of a completion is not scored" in warning
    assert "'w1' of 'a'. What follows it is." in warning
    assert f"warning: {warning}" in said


def test_defaults_that_find_routers_alone_are_refused_and_routers_that_give_more_than_logits(
    tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of experts of a kind that is not known."""
    monkeypatch.setattr(load, "take_apart", lambda model: None)
    config = tiny_run(tmp_path)
    phimoe = PhimoeConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=16,
    )
    PhimoeForCausalLM(phimoe).save_pretrained(config.model)
    with pytest.raises(ModelError, match=r"The experts of .*mlp\.experts are fused into single"):
        begun(config)
    with pytest.raises(
        ModelError,
        match=r"only layers that .* give one tensor can: .*router \(the first gives a tuple",
    ):
        begun(change(config, modules=["*.router"]))
    begun(change(config, modules=["model.layers.*.self_attn.*"]))
    assert nothing_was_read(config)


def test_routers_that_give_a_tuple_are_left_out_of_all_layers_and_named(
    tmp_path: Path, execute: Execute
) -> None:
    config = tiny_run(tmp_path, modules="all")
    llama4 = Llama4TextConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        intermediate_size_mlp=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_local_experts=4,
        max_position_embeddings=16,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(llama4).save_pretrained(config.model)
    _, said = begun(config)
    assert "layers; left out are model.layers.*.feed_forward.router (the first gives a " in said
    manifest = next(iter(execute(config).values())).manifest
    assert not any("router" in name for name in manifest["model"]["modules"])
    assert manifest["preflight"]["left_out"] == [
        f"model.layers.{n}.feed_forward.router" for n in range(2)
    ]


def test_the_manifest_holds_what_the_checks_found(tmp_path: Path, execute: Execute) -> None:
    results = execute(tiny_run(tmp_path))
    found = next(iter(results.values())).manifest["preflight"]
    assert found["gradients"] < 1e-3
    assert found["future"] == 0
    assert found["context"] == 16
    assert found["unreached"] == found["left_out"] == []
    assert found["not_tracked"]["transformer.wte.weight"] == 48 * 12


def test_the_checks_are_made_once_for_a_model_its_modules_and_versions(
    tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    original = preflight.preflight
    monkeypatch.setattr(preflight, "preflight", lambda *a: made.append(a) or original(*a))
    config = tiny_run(tmp_path)
    begun(config)
    begun(config)
    assert len(made) == 1
    begun(change(config, modules=["*.attn.*"]))
    assert len(made) == 2
    monkeypatch.setattr(preflight, "version", lambda name: "another")
    begun(config)
    assert len(made) == 3


@pytest.mark.parametrize("ends", [[0, 2], [0], 0, None])
def test_a_model_may_end_with_any_of_several_tokens(tmp_path: Path, ends: Any) -> None:
    config = tiny_run(tmp_path)
    file = Path(config.model) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": ends}))
    run, _ = begun(config)
    ordinary = run.tracked.ordinary
    given = ends if isinstance(ends, list) else [ends]
    assert not set(ordinary) & {one for one in given if one is not None}


def test_a_run_says_what_was_checked_also_where_it_was_in_an_earlier_run(
    tmp_path: Path, execute: Execute, said: io.StringIO
) -> None:
    config = tiny_run(tmp_path)
    _, first = begun(config)
    found = next(iter(execute(config).values())).manifest["preflight"]
    checked = (
        "gradients, causality, neighbours in batches of up to "
        f"{found['sequences']}, 16 positions; all off by less than 0.01%\n"
    )
    assert f"checks       passed: {checked}" in first
    assert said.getvalue().count(f"checks       passed in an earlier run: {checked}") == 1


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((0.0123, 0.0, 0.001), "the worst, gradients, off by 1.23%"),
        ((0.0, 0.0101, 0.001), "the worst, causality, off by 1.01%"),
        ((1e-7, 0.0, 1e-6), "all off by less than 0.01%"),
    ],
)
def test_the_worst_figure_of_the_checks_is_named(
    figures: tuple[float, float, float], words: str
) -> None:
    line = preflight.line(Passed(*figures, context=2048, sequences=1024), False)
    assert line.endswith(f"neighbours in batches of up to 1,024, 2,048 positions; {words}")
    alone = preflight.line(Passed(*figures, context=16, sequences=1), True)
    assert alone.endswith(f"causality, sequences one by one, 16 positions; {words}")


def test_a_masked_language_model_s_folder_is_refused_before_a_document_is_read(
    tmp_path: Path,
) -> None:
    config = tiny_run(tmp_path)
    torch.manual_seed(0)
    tiny_bert().save_pretrained(tmp_path / "model")
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "model")) is BertLMHeadModel
    with pytest.raises(ModelError, match="BertLMHeadModel is not causal"):
        begun(config)
    assert nothing_was_read(config)


@pytest.mark.parametrize("context", [None, 18, 64])
def test_that_a_model_is_not_causal_is_said_before_its_positions_and_its_context(
    tmp_path: Path, change: Change, context: int | None
) -> None:
    config = change(tiny_run(tmp_path), corpus={"context": context})
    torch.manual_seed(0)
    tiny_roberta().save_pretrained(config.model)
    with pytest.raises(ModelError, match="RobertaForCausalLM is not causal"):
        begun(config)
    assert nothing_was_read(config)


def test_a_context_above_the_model_s_is_refused_before_a_document_is_read(
    tmp_path: Path, change: Change
) -> None:
    config = change(tiny_run(tmp_path), corpus={"context": 17})
    with pytest.raises(ConfigError, match=r"context: 17 tokens, and the model's context is 16"):
        begun(config)
    assert nothing_was_read(config)


def test_what_dynamic_angles_do_beyond_the_context_is_said(tmp_path: Path, change: Change) -> None:
    small = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    model = LlamaForCausalLM(LlamaConfig(
        **small, num_attention_heads=2, max_position_embeddings=16, rope_parameters=rope,
    ))  # fmt: skip
    config = change(tiny_run(tmp_path, pretrained=model), corpus={"context": 17})
    said = r"context is 16; .* Beyond that its angles depend on the longest sequence so far"
    with pytest.raises(ConfigError, match=said):
        begun(config)


# --- before torch is imported ---

SPOILT: dict[str, tuple[dict[str, Any], str]] = {
    "a queries file with a wrong line": ({}, "queries.jsonl:1 is not JSON"),
    "a queries file that is not there": ({"queries": "nowhere.jsonl"}, "queries: there is no file"),
    "no queries": ({"queries": None}, "queries: name a queries.jsonl"),
    "documents that are not there": (
        {"corpus": {"documents": ["nowhere/*.jsonl"]}},
        "nowhere/*.jsonl names no file",
    ),
    "documents without the text": (
        {},
        "documents.jsonl has no key 'text' in any row; there are body. Name yours under corpus.",
    ),
    "no documents and no corpus": ({"corpus": {"documents": []}}, "holds no tokenised corpus"),
    "weights that are a pointer": ({}, "model.safetensors is a pointer of git-lfs (67 bytes)"),
    "a tokenizer that is cut short": ({}, "tokenizer.json is cut short, at 9 bytes"),
}
#: What is written over which file.
WRITTEN = {
    "a queries file with a wrong line": ("queries.jsonl", "{"),
    "documents without the text": ("documents.jsonl", '{"body": "a"}\n{"body": "b"}\n'),
    "weights that are a pointer": (
        "model/model.safetensors",
        "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n",
    ),
    "a tokenizer that is cut short": ("model/tokenizer.json", '{"model":'),
}


@pytest.mark.parametrize("command", ["run", "scan", "plan"])
@pytest.mark.parametrize("case", SPOILT)
def test_what_files_alone_tell_is_told_before_torch_is_imported(
    tmp_path: Path, command: str, case: str
) -> None:
    values, phrase = SPOILT[case]
    config = tiny_run(tmp_path).model_dump()
    for key, value in values.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    if case in WRITTEN:
        name, body = WRITTEN[case]
        (tmp_path / name).write_text(body)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    script = (
        "import sys, json\n"
        "from rayinfluence.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print(json.dumps([end.code, 'torch' in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, command, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    code, has_torch = json.loads(done.stdout)
    assert phrase in done.stderr, done.stderr
    assert code in (2, 4)
    assert not has_torch
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["scan", "plan", "fit"])
def test_a_query_that_is_too_long_is_told_before_documents_are_tokenised(
    tmp_path: Path, command: str
) -> None:
    config = tiny_run(tmp_path)
    line = {"query_id": "a", "prompt": "w1 " * 30, "completion": "w2"}
    (tmp_path / "queries.jsonl").write_text(json.dumps(line))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump()))
    from rayinfluence.cli import main

    with pytest.raises(SystemExit) as end:
        main([command, str(path)])
    assert end.value.code == 4
    assert nothing_was_read(config)


def test_a_tokenizer_needs_no_pad_token(tmp_path: Path, execute: Execute) -> None:
    tables = []
    for pad in (None, "<unk>"):
        config = tiny_run(tmp_path / str(pad), 20, scan={"methods": ["gradient_product"]})
        tokenizer = tiny_tokenizer()
        tokenizer.pad_token = pad
        tokenizer.save_pretrained(config.model)
        tables.append(execute(config)["gradient_product"].table)
    assert tables[0].equals(tables[1])


def test_layers_of_which_only_the_weight_is_used_are_left_out_and_named(tmp_path: Path) -> None:
    """Mamba's are such: it multiplies with them itself."""
    config = tiny_run(tmp_path, 4)
    sizes = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    AutoModelForCausalLM.from_config(MambaConfig(**sizes)).save_pretrained(config.model)
    values = config.model_dump()
    values["corpus"]["context"] = 16
    _, said = begun(RunConfig.parse({**values, "modules": None}))
    assert (
        "as no MLP is among them; left out are backbone.layers.*.mixer.dt_proj (the first is never "
        "called, while its weight is used)" in said
    )
