"""Families of models as data: a tiny configuration of each, and that of a published checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from rayinfluence.testing.models import CONTEXT, VOCABULARY

_TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_FEW: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 10}
_GROUPED: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 10,
    "n_group": 2,
    "topk_group": 1,
}


@dataclass(frozen=True)
class Family:
    """A family.

    Attributes:
        kind: of its configuration, as transformers calls it without ``Config``.
        tiny: its sizes in tests.
        checkpoint: a published one.
        billions: of parameters that it is said to have, text alone.
        published: its sizes, where they are not the configuration's defaults.
        modules: patterns of layers that are held against autograd.
    """

    kind: str
    tiny: Mapping[str, Any]
    checkpoint: str
    billions: float
    published: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ("*.experts.*", "*.gate", "*.o_proj")

    def config(self, published: bool = False) -> PretrainedConfig:
        """The configuration, tiny or as it was published."""
        kind = getattr(transformers, f"{self.kind}Config")
        return kind(**(self.published if published else self.tiny))


#: Mixtures whose experts are stacked.
EXPERTS = (
    Family(
        "Mixtral",
        _TINY | {"num_local_experts": 4, "num_experts_per_tok": 2},
        "mistralai/Mixtral-8x7B-v0.1", 46.7,
    ),
    Family(
        "Qwen2Moe",
        _TINY | _FEW | {"shared_expert_intermediate_size": 14},
        "Qwen/Qwen1.5-MoE-A2.7B", 14.3,
    ),
    Family(
        "Qwen3Moe",
        _TINY | _FEW | {"head_dim": 8, "norm_topk_prob": True},
        "Qwen/Qwen3-30B-A3B", 30.5,
        {"num_hidden_layers": 48, "head_dim": 128, "norm_topk_prob": True},
    ),
    Family("Olmoe", _TINY | _FEW, "allenai/OLMoE-1B-7B-0924", 6.9, {"intermediate_size": 1024}),
    Family(
        "GptOss",
        _TINY | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        "openai/gpt-oss-120b", 116.8,
        modules=("*.experts.*", "*.router", "*.o_proj"),
    ),
    Family(
        "GraniteMoe",
        _TINY | {"num_local_experts": 4, "num_experts_per_tok": 2},
        "ibm-granite/granite-3.0-1b-a400m-base", 1.33,
        {
            "vocab_size": 49155,
            "hidden_size": 1024,
            "intermediate_size": 512,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "num_local_experts": 32,
            "num_experts_per_tok": 8,
            "tie_word_embeddings": True,
        },
        modules=("*.experts.*", "*.router", "*.o_proj"),
    ),
    Family(
        "DeepseekV3",
        _TINY
        | _GROUPED
        | {
            "num_key_value_heads": 2,
            "first_k_dense_replace": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "num_mtp_layers": 0,
        },
        "deepseek-ai/DeepSeek-V3", 671,
    ),
    Family(
        "Glm4Moe",
        _TINY | _GROUPED | {"first_k_dense_replace": 1, "head_dim": 8, "num_mtp_layers": 0},
        "zai-org/GLM-4.5-Air", 106, {"head_dim": 128},
    ),
    Family(
        "Jamba",
        _TINY
        | {
            "num_hidden_layers": 3,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        "ai21labs/Jamba-v0.1", 51.6,
        modules=("*.experts.*", "*.router", "*.o_proj"),
    ),
    Family(
        "NemotronH",
        _TINY
        | {
            "layers_block_type": ["mamba", "moe", "attention", "mlp"],
            "n_groups": 1,
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "head_dim": 8,
            "chunk_size": 8,
            "n_routed_experts": 4,
            "moe_intermediate_size": 10,
            "moe_shared_expert_intermediate_size": 10,
            "num_experts_per_tok": 2,
        },
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", 31.6,
        {
            "hidden_size": 2688,
            "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
            "num_key_value_heads": 2,
            "mamba_num_heads": 64,
            "n_routed_experts": 128,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1856,
            "moe_shared_expert_intermediate_size": 3712,
        },
    ),
    Family(
        "Llama4Text",
        _TINY | {"num_local_experts": 4, "head_dim": 8, "intermediate_size_mlp": 12},
        "meta-llama/Llama-4-Scout-17B-16E", 107.8,
        {"num_local_experts": 16},
        modules=("*.experts.*", "*.o_proj"),
    ),
    Family(
        "JetMoe",
        _TINY | {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8},
        "jetmoe/jetmoe-8b", 8.5, {"num_hidden_layers": 24},
        modules=("*.input_linear.*", "*.output_linear.*", "*.router.layer"),
    ),
)  # fmt: skip


def tiny_model(family: Family, seed: int = 0) -> nn.Module:
    """A model of random weights, large enough that routers choose clearly."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(family.config()).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = 0.4 * torch.randn(weight.shape)
    return model
