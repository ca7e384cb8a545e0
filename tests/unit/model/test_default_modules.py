"""What the default patterns find in causal models of transformers: MLPs, and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import transformers
from transformers import AutoModelForCausalLM

from rayinfluence.model.modules import track

SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
GPT: dict[str, Any] = {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 2}
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
GATED = {"gate_proj": 2, "up_proj": 2, "down_proj": 2}
FUSED = {"input_linear": 2, "output_linear": 2}

#: A configuration, its sizes, and how many layers of which names the defaults find.
FAMILIES: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("GPT2", GPT, {"c_fc": 2, "c_proj": 2}),
    ("GPTJ", GPT | {"rotary_dim": 4}, {"fc_in": 2, "fc_out": 2}),
    ("GPTNeoX", SMALL, {"dense_h_to_4h": 2, "dense_4h_to_h": 2}),
    ("OPT", SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16}, {"fc1": 2, "fc2": 2}),
    ("Mpt", {"vocab_size": 48, "d_model": 16, "n_layers": 2, "n_heads": 2},
     {"up_proj": 2, "down_proj": 2}),
    ("Rwkv", SMALL | {"attention_hidden_size": 16}, {"key": 2, "value": 2, "receptance": 2}),
    ("Phi3", SMALL, {"gate_up_proj": 2, "down_proj": 2}),
    ("Llama", SMALL, GATED),
    ("Lfm2", SMALL | {"layer_types": ["conv", "full_attention"]}, {"w1": 2, "w2": 2, "w3": 2}),
    ("Llama4Text", SMALL | {"num_local_experts": 2, "head_dim": 8, "intermediate_size_mlp": 24},
     GATED | {"router": 2}),
    ("GraniteMoeShared", SMALL | SHARED, FUSED),
    ("GraniteMoeHybrid", SMALL | SHARED | MAMBA | {"layer_types": ["mamba", "attention"]}, FUSED),
    ("GraniteMoeHybrid",
     SMALL | SHARED | MAMBA | {"num_local_experts": 0, "layer_types": ["attention"] * 2}, FUSED),
    ("NemotronH",
     SMALL | {"layers_block_type": ["mamba", "moe", "attention", "mlp"], "n_groups": 1,
              "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "head_dim": 8,
              "n_routed_experts": 4, "moe_intermediate_size": 8,
              "moe_shared_expert_intermediate_size": 8, "num_experts_per_tok": 2},
     {"up_proj": 2, "down_proj": 2}),
    ("LongcatFlash",
     SMALL | LATENT | {"num_layers": 1, "ffn_hidden_size": 24, "expert_ffn_hidden_size": 8,
                       "n_routed_experts": 4, "zero_expert_num": 1, "moe_topk": 2},
     GATED | {"classifier": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "sizes", "expected"),
    FAMILIES,
    ids=[f"{family}-{place}" for place, (family, *_) in enumerate(FAMILIES)],
)
def test_the_defaults_find_the_mlps_of_a_family_and_nothing_else(
    family: str, sizes: dict[str, Any], expected: dict[str, int]
) -> None:
    config = getattr(transformers, f"{family}Config")(**sizes)
    found = track(AutoModelForCausalLM.from_config(config))
    assert Counter(name.rpartition(".")[2] for name in found) == expected
