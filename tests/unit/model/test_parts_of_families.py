"""What layers of families of transformers are to their blocks; MLPs are those they always were."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from rayinfluence.model.load import freeze
from rayinfluence.model.modules import chosen, trackable
from rayinfluence.model.parts import parts_of
from rayinfluence.model.preflight import made_up

SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
ENDS: dict[str, Any] = {"vocab_size": 48, "bos_token_id": 0, "eos_token_id": 0}
GPT: dict[str, Any] = ENDS | {"n_embd": 16, "n_layer": 2, "n_head": 2}
SHARED: dict[str, Any] = {"shared_intermediate_size": 24, "num_local_experts": 2}
MAMBA: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
LATENT: dict[str, Any] = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
HYBRID = {"layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "num_hidden_layers": 4}

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

#: Families whose MLPs had such names, with sizes.
NAMED: list[tuple[str, dict[str, Any]]] = [
    ("GPT2", GPT),
    ("GPTNeoX", SMALL),
    ("Llama", SMALL),
    ("OPT", SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 12}),
    ("Falcon", SMALL),
    ("Falcon", SMALL | {"parallel_attn": False, "multi_query": False}),
    ("Phi", SMALL),
    ("Phi3", SMALL),
    ("Gemma", SMALL | {"head_dim": 8}),
    ("Gemma2", SMALL | {"head_dim": 8}),
    ("Bloom", ENDS | {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    ("GPTJ", GPT | {"rotary_dim": 4}),
    ("CodeGen", GPT | {"n_embd": 32, "n_head": 4, "rotary_dim": 4}),
    ("GPTNeo", ENDS | {"hidden_size": 16, "num_layers": 2, "num_heads": 2,
                       "attention_types": [[["global", "local"], 1]], "window_size": 4}),
    ("Mpt", {"vocab_size": 48, "d_model": 16, "n_layers": 2, "n_heads": 2}),
    ("Qwen2", SMALL),
    ("Qwen3", SMALL | {"head_dim": 8}),
    ("Cohere", SMALL),
    ("Starcoder2", SMALL),
    ("GPTBigCode", GPT),
    ("StableLm", SMALL),
    ("Olmo2", SMALL),
    ("XGLM", ENDS | {"d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2}),
    ("CTRL", {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "dff": 24}),
    ("Bert", SMALL | {"is_decoder": True}),
    ("Electra", SMALL | {"is_decoder": True, "embedding_size": 8}),
    ("XLM", {"vocab_size": 48, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "causal": True}),
    ("Rwkv", SMALL | {"attention_hidden_size": 16}),
    ("RecurrentGemma", SMALL | {"lru_width": 16, "num_hidden_layers": 3}),
    ("Lfm2", SMALL | {"layer_types": ["conv", "full_attention"]}),
    ("DeepseekV3", SMALL | LATENT | {"n_routed_experts": 4, "moe_intermediate_size": 8,
                                     "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
                                     "first_k_dense_replace": 1}),
    ("GraniteMoeShared", SMALL | SHARED),
    ("GraniteMoeHybrid", SMALL | SHARED | MAMBA | {"layer_types": ["mamba", "attention"]}),
    ("GraniteMoeHybrid",
     SMALL | SHARED | MAMBA | {"num_local_experts": 0, "layer_types": ["attention"] * 2}),
]  # fmt: skip

#: Families with parts that names do not tell, and the layers of each part.
STRUCTURED: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("Mamba", SMALL | {"state_size": 4}, {"attention": "in_proj out_proj x_proj"}),
    ("Mamba2", SMALL | {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1},
     {"attention": "in_proj out_proj"}),
    ("NemotronH",
     SMALL | {"layers_block_type": ["mamba", "moe", "attention", "mlp"], "n_groups": 1,
              "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "head_dim": 8,
              "n_routed_experts": 4, "moe_intermediate_size": 8,
              "moe_shared_expert_intermediate_size": 8, "num_experts_per_tok": 2},
     {"attention": "in_proj k_proj o_proj out_proj q_proj v_proj", "mlp": "down_proj up_proj"}),
    ("Zamba",
     SMALL | HYBRID | {"attention_hidden_size": 32, "attention_head_dim": 16, "mamba_d_state": 4,
                       "n_mamba_heads": 1, "use_mamba_kernels": False},
     {"attention": "in_proj k_proj o_proj out_proj q_proj v_proj",
      "mlp": "down_proj gate_proj linear up_proj"}),
    ("Zamba2",
     SMALL | HYBRID | {"mamba_d_state": 4, "mamba_headdim": 8, "mamba_ngroups": 1,
                       "n_mamba_heads": 4, "num_mem_blocks": 1, "use_mamba_kernels": False},
     {"attention": "in_proj k_proj o_proj out_proj q_proj v_proj",
      "mlp": "0 1 down_proj gate_up_proj linear"}),
    ("Jamba",
     SMALL | {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2,
              "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
              "mamba_d_state": 4, "mamba_dt_rank": 2, "use_mamba_kernels": False},
     {"attention": "in_proj k_proj o_proj out_proj q_proj v_proj x_proj",
      "mlp": "down_proj gate_proj up_proj"}),
    ("RecurrentGemma", SMALL | {"lru_width": 16, "num_hidden_layers": 3},
     {"attention": "k_proj linear_out linear_x linear_y o_proj q_proj v_proj",
      "mlp": "down_proj gate_proj up_proj"}),
    ("Rwkv", SMALL | {"attention_hidden_size": 16},
     {"attention": "key output receptance value", "mlp": "key receptance value"}),
    ("XLM", {"vocab_size": 48, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "causal": True},
     {"attention": "k_lin out_lin q_lin v_lin", "mlp": "lin1 lin2"}),
    ("DeepseekV3", SMALL | LATENT | {"n_routed_experts": 4, "first_k_dense_replace": 2},
     {"attention": "kv_a_proj_with_mqa kv_b_proj o_proj q_a_proj q_b_proj",
      "mlp": "down_proj gate_proj up_proj"}),
    ("Qwen2Moe", SMALL | EXPERTS,
     {"attention": "k_proj o_proj q_proj v_proj", "mlp": "down_proj gate_proj up_proj",
      "router": "shared_expert_gate"}),
    ("Qwen3Next",
     SMALL | EXPERTS | {"head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                        "linear_num_key_heads": 2, "linear_num_value_heads": 2,
                        "layer_types": ["linear_attention", "full_attention"]},
     {"attention": "in_proj_ba in_proj_qkvz k_proj o_proj out_proj q_proj v_proj",
      "mlp": "down_proj gate_proj up_proj", "router": "shared_expert_gate"}),
    ("JetMoe", SMALL | EXPERTS | {"kv_channels": 8}, {"attention": "kv_proj", "router": "layer"}),
    ("Phimoe", SMALL | EXPERTS, {"attention": "k_proj o_proj q_proj v_proj", "router": "router"}),
    ("Llama4Text", SMALL | EXPERTS | {"head_dim": 8, "intermediate_size_mlp": 24},
     {"attention": "k_proj o_proj q_proj v_proj", "mlp": "down_proj gate_proj up_proj",
      "router": "router"}),
    ("LongcatFlash",
     SMALL | LATENT | {"num_layers": 1, "ffn_hidden_size": 24, "expert_ffn_hidden_size": 8,
                       "n_routed_experts": 4, "zero_expert_num": 1, "moe_topk": 2},
     {"attention": "kv_a_proj_with_mqa kv_b_proj o_proj q_a_proj q_b_proj",
      "mlp": "down_proj gate_proj up_proj"}),
]  # fmt: skip


def made(family: str, sizes: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    return freeze(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))


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


def named(cases: list[Any]) -> list[str]:
    return [f"{case[0]}-{place}" for place, case in enumerate(cases)]


@pytest.mark.parametrize(("family", "sizes"), NAMED, ids=named(NAMED))
def test_the_mlps_of_a_family_are_those_that_its_names_tell(
    family: str, sizes: dict[str, Any]
) -> None:
    model = made(family, sizes)
    found = chosen(model, "mlp", parts_of(model, made_up(range(48), torch.device("cpu"))))
    assert [name for name in found if ordinary(model, name)] == by_name(model) != []


@pytest.mark.parametrize(("family", "sizes", "expected"), STRUCTURED, ids=named(STRUCTURED))
def test_each_layer_of_a_family_has_its_part(
    family: str, sizes: dict[str, Any], expected: dict[str, str]
) -> None:
    model = made(family, sizes)
    parts = parts_of(model, made_up(range(48), torch.device("cpu")))
    found: dict[str, set[str]] = {}
    for name, part in parts.items():
        if not ordinary(model, name):
            continue
        found.setdefault(part, set()).add(name.rpartition(".")[2])
    assert {part: " ".join(sorted(names)) for part, names in found.items()} == expected
