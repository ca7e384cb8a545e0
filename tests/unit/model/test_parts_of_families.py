"""What layers of families of transformers are to their blocks; MLPs are those they always were."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
import transformers
from models.families import FAMILIES
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from rayinfluence.model.experts import take_apart
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import chosen, trackable
from rayinfluence.model.parts import Part, parts_of
from rayinfluence.model.preflight import made_up

_TINY = {family.kind: family.tiny for family in FAMILIES}
_SMALL = _TINY["Llama"]
_SHARED = {"shared_intermediate_size": 24, "num_local_experts": 2}

#: How transformers names the linear layers of MLPs, by which they were found before.
NAMES = (
    "*.mlp.*",
    "*.mlps.*",
    "*.mlp_block.*",
    "*.shared_mlp.*",
    "*.shared_expert.*",
    "*.shared_experts.*",
    "*.feed_forward.*",
    "*.ffn.*",
    "*.ffns.*",
    "*.ff.*",
    "*.fc1",
    "*.fc2",
    "*.intermediate.dense",
    "*.output.dense",
    "*.mixer.up_proj",
    "*.mixer.down_proj",
)
OF_ATTENTION = ("*attention.output.dense", "*attn.output.dense")

#: Families whose MLPs had such names.
NAMED = [
    "GPT2",
    "GPTNeoX",
    "Llama",
    "OPT",
    "Falcon",
    "Phi",
    "Phi3",
    "Gemma",
    "Gemma2",
    "Bloom",
    "GPTJ",
    "CodeGen",
    "GPTNeo",
    "Mpt",
    "Qwen2",
    "Qwen3",
    "Cohere",
    "Starcoder2",
    "GPTBigCode",
    "StableLm",
    "Olmo2",
    "XGLM",
    "CTRL",
    "XLM",
    "Rwkv",
    "RecurrentGemma",
    "Lfm2",
    "DeepseekV3",
    "GraniteMoeHybrid",
]
#: And with what else they, or others, may be.
VARIED: list[tuple[str, Mapping[str, Any]]] = [
    ("Falcon", {"parallel_attn": False, "multi_query": False}),
    ("Bert", _SMALL | {"is_decoder": True}),
    ("Electra", _SMALL | {"is_decoder": True, "embedding_size": 8}),
    ("GraniteMoeShared", _SMALL | _SHARED),
    ("GraniteMoeHybrid", _SHARED),
    ("GraniteMoeHybrid", {"layer_types": ["attention"] * 2}),
]

#: Families with parts that names do not tell, and the layers of each part.
STRUCTURED: dict[str, dict[str, str]] = {
    "Mamba": {"attention": "in_proj out_proj x_proj"},
    "Mamba2": {"attention": "in_proj out_proj"},
    "NemotronH": {
        "attention": "in_proj k_proj o_proj out_proj q_proj v_proj",
        "mlp": "down_proj up_proj",
    },
    "Zamba": {
        "attention": "in_proj k_proj o_proj out_proj q_proj v_proj",
        "mlp": "down_proj gate_proj linear up_proj",
    },
    "Zamba2": {
        "attention": "in_proj k_proj o_proj out_proj q_proj v_proj",
        "mlp": "0 1 down_proj gate_up_proj linear",
    },
    "Jamba": {
        "attention": "in_proj k_proj o_proj out_proj q_proj v_proj x_proj",
        "mlp": "down_proj gate_proj up_proj",
    },
    "RecurrentGemma": {
        "attention": "k_proj linear_out linear_x linear_y o_proj q_proj v_proj",
        "mlp": "down_proj gate_proj up_proj",
    },
    "Rwkv": {"attention": "key output receptance value", "mlp": "key receptance value"},
    "XLM": {"attention": "k_lin out_lin q_lin v_lin", "mlp": "lin1 lin2"},
    "DeepseekV3": {
        "attention": "kv_a_proj_with_mqa kv_b_proj o_proj q_a_proj q_b_proj",
        "mlp": "down_proj gate_proj up_proj",
    },
    "Qwen2Moe": {
        "attention": "k_proj o_proj q_proj v_proj",
        "mlp": "down_proj gate_proj up_proj",
        "router": "shared_expert_gate",
    },
    "Qwen3Next": {
        "attention": "in_proj_ba in_proj_qkvz k_proj o_proj out_proj q_proj v_proj",
        "mlp": "down_proj gate_proj up_proj",
        "router": "shared_expert_gate",
    },
    "JetMoe": {"attention": "kv_proj", "router": "layer"},
    "Phimoe": {"attention": "k_proj o_proj q_proj v_proj", "router": "router"},
    "Llama4Text": {
        "attention": "k_proj o_proj q_proj v_proj",
        "mlp": "down_proj gate_proj up_proj",
        "router": "router",
    },
    "LongcatFlash": {
        "attention": "kv_a_proj_with_mqa kv_b_proj o_proj q_a_proj q_b_proj",
        "mlp": "down_proj gate_proj up_proj",
    },
}


def made(family: str, more: Mapping[str, Any] = MappingProxyType({})) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**_TINY.get(family, {}) | more)
    return freeze(
        AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", experts_implementation="eager"
        )
    )


def ordinary(model: nn.Module, name: str) -> bool:
    """Of the kinds of layers that were known when MLPs were found by their names."""
    return isinstance(model.get_submodule(name), nn.Linear | Conv1D)


def by_name(model: nn.Module) -> list[str]:
    names = [
        name
        for name in trackable(model)
        if any(fnmatch.fnmatchcase(f".{name}", pattern) for pattern in NAMES)
        and ordinary(model, name)
    ]
    return [n for n in names if not any(fnmatch.fnmatchcase(n, p) for p in OF_ATTENTION)]


def parts(model: nn.Module) -> dict[str, Part]:
    return parts_of(model, made_up(range(48), torch.device("cpu")))


@pytest.mark.parametrize(
    ("family", "more"), [*((kind, {}) for kind in NAMED), *VARIED], ids=lambda one: str(one)[:40]
)
def test_the_mlps_of_a_family_are_those_that_its_names_tell(
    family: str, more: Mapping[str, Any]
) -> None:
    model = made(family, more)
    found = chosen(model, "mlp", parts(model))
    assert [name for name in found if ordinary(model, name)] == by_name(model) != []


@pytest.mark.parametrize("family", STRUCTURED)
def test_each_layer_of_a_family_has_its_part(family: str) -> None:
    model = made(family)
    found: dict[str, set[str]] = {}
    for name, part in parts(model).items():
        if ordinary(model, name):
            found.setdefault(part, set()).add(name.rpartition(".")[2])
    assert {part: " ".join(sorted(names)) for part, names in found.items()} == STRUCTURED[family]


def test_the_layers_of_zaya_s_router_are_routers_however_wide_they_are() -> None:
    """It goes through four layers, of which three give 256 numbers beside a stream of 16."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "moe_intermediate_size": 12}
    model = made("Zaya", {**sizes, "vocab_size": 48, "num_experts": 4, "num_experts_per_tok": 1})
    take_apart(model)
    found: dict[str, set[str]] = {}
    for name, part in parts(model).items():
        found.setdefault(part, set()).add(name.rpartition(".")[2])
    assert found["router"] == {"down_proj", "fc1", "fc2", "out_proj"}
    assert [n for n, part in parts(model).items() if part == "mlp" and ".experts." not in n] == []
    assert {"o_proj", "q_proj"} <= found["attention"]
