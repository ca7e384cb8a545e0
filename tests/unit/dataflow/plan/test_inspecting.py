"""What `inspect` says of a model before there is a corpus."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import save_adapter
from loopback_hub import Hub
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    GPT2Config,
    GptOssConfig,
    JetMoeConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3_5TextConfig,
    RecurrentGemmaConfig,
)

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.compute.activations import activation_bytes
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.plan.inspecting import factored_up_to, grown, inspect, memory_here
from rayinfluence.errors import ConfigError
from rayinfluence.influence.contraction import Work
from rayinfluence.model.batches import make_batch
from rayinfluence.model.modules import ModuleShape, track
from rayinfluence.model.weightless import weightless_model
from rayinfluence.testing import tiny_gpt2, tiny_mlp, tiny_run, tiny_tokenizer

pytestmark = pytest.mark.runs

Say = Callable[..., tuple[int, str, str]]
MLP = {"transformer.h.*.mlp.c_fc", "transformer.h.*.mlp.c_proj"}
ATTENTION = {"transformer.h.*.attn.c_attn", "transformer.h.*.attn.c_proj"}
SMALL = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
ROUTED = {
    **SMALL,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
}
NUMERICS = Numerics("float32", "cpu", 64, 64, "eager", 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_s_folder_is_shown_with_what_is_tracked_of_it_and_what_that_takes(
    tmp_path: Path, say: Say
) -> None:
    model = tiny_run(tmp_path).model
    before = contents(tmp_path)
    code, out, _ = say("inspect", model, "--json")
    found = json.loads(out)
    assert (code, found["refused"], found["format"]) == (0, None, 1)
    assert {one["pattern"] for one in found["layers"] if one["tracked"]} == MLP
    layers = {one["pattern"]: one for one in found["layers"]}
    assert layers["transformer.h.*.mlp.c_fc"] | {"factored_up_to": 0} == {
        "pattern": "transformer.h.*.mlp.c_fc",
        "part": "mlp",
        "number": 2,
        "d_in": 12,
        "d_out": 48,
        "bias": True,
        "tracked": True,
        "why": None,
        "factored_up_to": 0,
    }
    assert layers["transformer.h.*.attn.c_attn"]["part"] == "attention"
    assert layers["transformer.h.*.attn.c_attn"]["why"] == "not asked for"
    assert layers["transformer.wte"]["why"] == "its weight is lm_head's"
    assert layers["lm_head"]["why"] == "an embedding: where it is named in full"
    numbers = 2 * (48 * 13 + 12 * 49)
    assert found["parameters"]["share"] == numbers / 4560
    assert found["parameters"]["not_tracked"]["transformer.wte.weight"] == 48 * 12
    assert found["checks"]["gradients"] < 1e-3
    size = found["bytes"]
    assert size["weights"] == 4 * 4560
    assert size["factors"] == 4 * (2 * 2 * (13**2 + 48**2 + 49**2 + 12**2) + numbers)
    assert size["bank"] == 4 * 2 * (13 * (13 + 48) + 12 * (49 + 12))
    assert size["gradient"] == 4 * numbers
    assert found["memory"]["fit_fits"] is True
    assert found["memory"]["queries_that_fit"] > 1000
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("asked", "tracked"),
    [(["attention"], ATTENTION), (["all"], MLP | ATTENTION), (["*.c_fc", "*.c_attn"], None)],
)
def test_what_would_be_tracked_otherwise_is_shown_of_a_run_s_file_too(
    tmp_path: Path, say: Say, asked: list[str], tracked: set[str] | None
) -> None:
    config = tiny_run(tmp_path, scan={"rank": "dense"})
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    options = [word for one in asked for word in ("--modules", one)]
    code, out, _ = say("inspect", tmp_path / "run.yaml", *options, "--json")
    found = json.loads(out)
    expected = tracked or {"transformer.h.*.mlp.c_fc", "transformer.h.*.attn.c_attn"}
    assert code == 0
    assert {one["pattern"] for one in found["layers"] if one["tracked"]} == expected
    assert (found["rank"], found["batch_tokens"]) == (None, 64)
    assert not (tmp_path / "run").exists()


def test_it_is_a_table_for_people(tmp_path: Path, say: Say) -> None:
    code, out, error = say("inspect", tiny_run(tmp_path).model)
    assert (code, error) == (0, "")
    for part in (
        "GPT2LMHeadModel: 53.2% of 4,560 parameters are tracked, in 4 layers",
        "sequences of 16 tokens, batches of 2,048; queries of rank 32",
        "transformer.h.*.attn.c_attn",
        "no: not asked for",
        "transformer.wte.weight",
        "12.63%",
        "measured on 16 tokens",
        "of it and fits",
        "checks       passed: gradients, causality",
    ):
        assert part in out, out


def test_what_a_run_would_refuse_is_said_after_what_is_known(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path)
    weights = Path(config.model) / "model.safetensors"
    tensors = load_file(weights)
    for name in tensors:
        if "c_proj" in name:
            tensors[name].zero_()
    save_file(tensors, weights, metadata={"format": "pt"})
    code, out, error = say("inspect", config.model, "--json")
    found = json.loads(out)
    assert code == found["refused"]["exit_code"] == 4
    assert "gradient of" in found["refused"]["sentence"]
    assert found["refused"]["sentence"] in error
    assert (found["checks"], found["bytes"]["weights"]) == (None, 4 * 4560)


@pytest.mark.parametrize("weights", [True, False], ids=["with weights", "without"])
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["*.nothing.*"], "modules: the pattern '*.nothing.*' matches no linear layer"),
        (
            ["transformer.wte"],
            "shares its weight with another module: write lm_head, under which both",
        ),
    ],
)
def test_where_a_choice_of_modules_is_refused_the_layers_are_shown_all_the_same(
    tmp_path: Path, say: Say, asked: list[str], words: str, weights: bool
) -> None:
    model = tiny_run(tmp_path).model
    model = model if weights else alone(model, tmp_path / "alone")
    options = [word for one in asked for word in ("--modules", one)]
    code, out, error = say("inspect", model, *options, "--json")
    found = json.loads(out)
    assert code == found["refused"]["exit_code"] == 4
    assert words in found["refused"]["sentence"]
    assert found["refused"]["sentence"] in error
    assert {one["pattern"]: one["part"] for one in found["layers"]} == {
        **dict.fromkeys(MLP, "mlp"),
        **dict.fromkeys(ATTENTION, "attention"),
        **dict.fromkeys(("transformer.wte", "transformer.wpe", "lm_head")),
    }
    assert not any(one["tracked"] for one in found["layers"])
    assert (found["parameters"]["tracked"], found["parameters"]["reached"]) == (0, 4560)
    assert (found["checks"], found["bytes"], found["warnings"]) == (None, None, [])
    assert found["memory"]["queries_that_fit"] is None
    code, out, error = say("inspect", model, *options)
    assert code == 4
    assert "0.0% of 4,560 parameters are tracked" in out
    assert "transformer.h.*.attn.c_attn" in out
    assert words in error


def test_a_model_without_a_tokenizer_is_shown_and_refused(tmp_path: Path, say: Say) -> None:
    config = tiny_run(tmp_path)
    for path in Path(config.model).glob("tokenizer*"):
        path.unlink()
    code, out, error = say("inspect", config.model)
    assert code == 4
    assert "53.2% of 4,560 parameters" in out
    assert "error: tokenizer: " in error


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("nothing", 4, "nothing; name one that `save_pretrained` wrote, with its config.json"),
        (".", 4, "is not a folder with a config.json"),
        ("documents.jsonl", 2, "cannot be read as YAML"),
    ],
)
def test_what_is_neither_a_model_nor_a_run_is_refused(
    tmp_path: Path, say: Say, place: str, code: int, words: str
) -> None:
    tiny_run(tmp_path)
    found, out, error = say("inspect", tmp_path / place)
    assert (found, out) == (code, "")
    assert words in error


def test_layers_that_are_alike_but_for_a_width_or_a_part_are_apart(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    sizes = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
    sizes |= {"moe_intermediate_size": 8, "shared_expert_intermediate_size": 12}
    sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 2}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen2MoeConfig(**sizes)).save_pretrained(config.model)
    tiny_tokenizer().save_pretrained(config.model)
    found = inspect(config)
    parts = {one.pattern.split("layers.*.")[-1]: one.part for one in found.layers}
    assert parts["mlp.shared_expert_gate"] == "router"
    assert parts["mlp.shared_expert.up_proj"] == parts["mlp.up_proj"] == "mlp"
    assert parts["lm_head"] is None
    assert len(set(found.layers)) == len(found.layers)


def test_the_contraction_is_the_one_that_a_scan_of_so_many_queries_chooses() -> None:
    replica = Replica(model := tiny_mlp(), track(model, ["inner"]), NUMERICS)
    shape = ModuleShape("inner", 256, 64, False, "inner")
    window = 4, 2000
    most = factored_up_to(shape, 8, window, replica)
    assert most is not None
    assert most > 0
    work = Work(*window, 256, 64, most, 8, 4, "cpu")
    assert work.is_factored
    assert not replace(work, n_queries=most + 1).is_factored
    assert factored_up_to(shape, None, window, replica) == 0
    assert factored_up_to(replace(shape, d_in=4096, d_out=4096), 1, (64, 64), replica) is None


def test_activations_grow_with_tokens_and_leave_out_weights() -> None:
    model = tiny_mlp(dtype=torch.float32)
    replica = Replica(model, track(model, ["inner"]), NUMERICS)

    def of(n_tokens: int) -> int:
        batch = make_batch([np.arange(n_tokens) % 48], [0], torch.device("cpu"))
        return activation_bytes(replica, batch)

    width = 10
    assert of(40) - of(20) == of(60) - of(40) > 4 * 20 * 4 * width
    assert of(20) < 20 * 4 * (6 * width + 2 * 48) + 200


def test_what_nothing_needs_any_more_is_not_kept() -> None:
    """As the states of a recurrence that only a cache would have: their memory is used again."""

    def of(dead: bool) -> int:
        model = tiny_mlp(dtype=torch.float32)
        replica = Replica(model, track(model, ["inner"]), NUMERICS)
        if dead:
            model.inner.register_forward_hook(lambda *call: (call[2].exp().exp(), None)[1])
        return activation_bytes(replica, make_batch([np.arange(20)], [0], torch.device("cpu")))

    assert of(dead=True) == of(dead=False)


@pytest.mark.parametrize("length", [2, 7, 16, 128])
def test_what_a_context_keeps_follows_from_two_lengths(length: int) -> None:
    def of(n_tokens: int) -> int:
        return 640 * n_tokens + 96 * n_tokens**2

    half, whole = of(length // 2), of(length)
    assert grown(half, whole, length, 2048) == pytest.approx(of(2048), rel=1e-9)
    assert grown(100, 200, 2, 2048) == 100 * 2048
    # What is kept once, and not for each token, is no reason for less.
    assert grown(1100, 1200, 2, 2048) == 600 * 2048


def test_attention_as_a_matrix_takes_the_square_of_the_context(tmp_path: Path) -> None:
    config = tiny_run(tmp_path, batch_tokens=512)
    torch.manual_seed(0)
    model = GPT2Config(vocab_size=48, n_positions=512, n_embd=12, n_layer=2, n_head=2)
    AutoModelForCausalLM.from_config(model).save_pretrained(config.model)
    found = {
        attention: inspect(RunConfig.parse({**config.model_dump(), "attention": attention}))
        for attention in ("sdpa", "eager")
    }
    eager = found["eager"]
    batch = make_batch([np.arange(512) % 48], [0], torch.device("cpu"))
    real = activation_bytes(eager.tracked.replica, batch)
    assert eager.bytes.activations == pytest.approx(real, rel=0.02)
    assert eager.bytes.activations > 2 * found["sdpa"].bytes.activations


def test_this_machine_has_memory() -> None:
    assert 2**28 < memory_here([torch.device("cpu")]) < 2**46


def alone(model: str, folder: Path) -> str:
    folder.mkdir()
    shutil.copy(Path(model) / "config.json", folder)
    return str(folder)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=48, n_positions=16, n_embd=12, n_layer=2, n_head=2),
        LlamaConfig(**SMALL, max_position_embeddings=16),
        MambaConfig(**SMALL, state_size=4),
        # Heads of keys that values share, and states that only a cache would keep.
        Qwen3_5TextConfig(
            **{**SMALL, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8},
            **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2},
            **{"linear_num_value_heads": 4, "max_position_embeddings": 16},
            layer_types=["linear_attention", "full_attention"],
        ),
        RecurrentGemmaConfig(**SMALL, lru_width=16),
        MixtralConfig(**ROUTED),
        # So many weights of experts are one row that is seen many times.
        MixtralConfig(**{**ROUTED, "intermediate_size": 1024}),
        GptOssConfig(**ROUTED, head_dim=8),
        Llama4TextConfig(**ROUTED, head_dim=8, intermediate_size_mlp=32),
        JetMoeConfig(**ROUTED, kv_channels=8),
        DeepseekV2Config(
            **ROUTED,
            **{"n_routed_experts": 4, "first_k_dense_replace": 1, "moe_intermediate_size": 12},
            **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4},
            **{"qk_nope_head_dim": 4, "v_head_dim": 8, "n_group": 1, "topk_group": 1},
            topk_method="greedy",
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_sizes_by_config_alone_are_those_of_the_model(
    tmp_path: Path, config: PreTrainedConfig
) -> None:
    run = tiny_run(tmp_path, corpus={"context": 16}, modules="all")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(run.model)
    expected = inspect(run)
    values = {**run.model_dump(), "model": alone(run.model, tmp_path / "alone")}
    found = inspect(RunConfig.parse(values))
    assert expected.has_weights
    assert not found.has_weights
    assert found.layers == expected.layers
    assert found.bytes == expected.bytes
    assert found.tracked.coverage == expected.tracked.coverage
    assert found.tracked.replica.shapes == expected.tracked.replica.shapes


def test_the_experts_of_a_large_mixture_have_names_and_no_memory(tmp_path: Path) -> None:
    """Each weight of eight experts has 64 MiB."""
    sizes = {"hidden_size": 4096, "intermediate_size": 4096, "num_hidden_layers": 1}
    MixtralConfig(**sizes, num_local_experts=8).save_pretrained(tmp_path)
    model = weightless_model(str(tmp_path), torch.float32)
    layers = {name: one for name, one in model.named_modules() if ".experts.7." in name}
    assert [name.rpartition(".")[2] for name in layers] == ["gate_up_proj", "down_proj"]
    weights = [weight for layer in layers.values() for weight in layer.parameters()]
    assert [weight.shape for weight in weights] == [(8192, 4096), (4096, 4096)]
    assert all(weight.untyped_storage().nbytes() == 4 * 4096 for weight in weights)


def test_by_config_alone_it_is_said_that_nothing_was_checked(tmp_path: Path, say: Say) -> None:
    model = alone(tiny_run(tmp_path).model, tmp_path / "alone")
    code, out, error = say("inspect", model)
    assert (code, error) == (0, "")
    assert "53.2% of 4,560 parameters" in out
    assert (
        "checks       none: there are no weights, and sizes are by the configuration alone" in out
    )
    (Path(model) / "pytorch_model.bin").write_text("")
    code, out, error = say("inspect", model)
    assert (code, out) == (4, "")
    assert "is a pickle" in error


def test_the_weights_of_a_large_model_are_never_in_memory(tmp_path: Path) -> None:
    large = {"vocab_size": 10**7, "n_positions": 16, "n_embd": 4096, "n_layer": 1, "n_head": 8}
    GPT2Config(**large).save_pretrained(tmp_path)
    model = weightless_model(str(tmp_path), torch.float32)
    weight = model.get_input_embeddings().weight
    assert weight.shape == (10**7, 4096)  # 153 GiB
    assert weight.untyped_storage().nbytes() == 4 * 4096
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_of_a_mixture_a_window_holds_what_experts_see_of_the_tokens_that_chose_them(
    tmp_path: Path,
) -> None:
    """Two of four experts for each token, in two blocks of two layers; nothing else is tracked."""
    config = tiny_run(tmp_path)
    sizes = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
    torch.manual_seed(0)
    mixtral = MixtralConfig(**sizes, num_experts_per_tok=2, max_position_embeddings=16)
    AutoModelForCausalLM.from_config(mixtral).save_pretrained(config.model)
    values = {**config.model_dump(), "modules": ["*.experts.*"]}
    of_a_token = 4 * 2 * 2 * ((16 + 24) + (12 + 16))
    assert inspect(RunConfig.parse(values)).bytes.window == of_a_token * 128 * 16


def test_a_model_on_a_hub_is_fetched_and_inspected(tmp_path: Path, hub: Hub, say: Say) -> None:
    folder = Path(tiny_run(tmp_path).model)
    hub.push("org/mine", {file.name: file.read_bytes() for file in folder.iterdir()})
    code, out, error = say("inspect", "hf://org/mine")
    assert code == 0
    assert "of 4,560 parameters" in out
    assert "hf://org/mine@main is commit" in error


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("hf://acme/nano@", "names no model on a hub: write hf://org/name, or"),
        ("hf://acme/nano/sub@main", "names no model on a hub: write hf://org/name, or"),
        ("hf://acme/na no", "names no model on a hub: write hf://org/name, or"),
        ("hf://acme/nano@main@dev", "names no model on a hub: write hf://org/name, or"),
        ("HF://acme/nano", "did you mean hf://acme/nano?"),
        ("hf:acme/nano", "did you mean hf://acme/nano?"),
        ("https://huggingface.co/acme/nano", "is a page: did you mean hf://acme/nano?"),
    ],
)
def test_an_address_of_a_hub_that_is_wrong_is_told_as_in_a_run_s_file(
    place: str, words: str, say: Say
) -> None:
    code, out, error = say("inspect", place)
    assert (code, out) == (2, "")
    assert words in error
    with pytest.raises(ConfigError, match=re.escape(words)):
        RunConfig.parse({"run": "run", "model": place}, "run.yaml")


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(tmp_path: Path, say: Say) -> None:
    pytest.importorskip("peft")
    base, adapter = tiny_run(tmp_path).model, tmp_path / "adapter"
    model = tiny_gpt2(dtype=torch.float32)
    save_adapter(adapter, model, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    about = json.loads((adapter / "adapter_config.json").read_text())
    about["base_model_name_or_path"] = base
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    code, out, error = say("inspect", adapter)
    assert (code, "parameters of its adapter are tracked" in out) == (0, True), error
