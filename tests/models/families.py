"""Families of models as data: a tiny configuration of each, and that of a published checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from other_kinds import CLASSES, CLS, SEP, SPECIAL
from torch import nn
from transformers import PretrainedConfig

from rayinfluence.objective_kinds import CAUSAL, CLASSIFICATION, KINDS, MASKED, SEQ2SEQ
from rayinfluence.testing.models import CONTEXT, VOCABULARY

_ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_WORDS: dict[str, Any] = {"vocab_size": VOCABULARY}
_TINY: dict[str, Any] = _ENDS | _WORDS | {
    "max_position_embeddings": CONTEXT,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
_ENDLESS = {name: value for name, value in _TINY.items() if name != "max_position_embeddings"}
_EIGHT: dict[str, Any] = _TINY | {"head_dim": 8}
_GPT: dict[str, Any] = _ENDS | _WORDS | {
    "n_positions": CONTEXT, "n_embd": 16, "n_inner": 12, "n_layer": 2, "n_head": 2,
}  # fmt: skip
_FEW: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 10}
_LOCAL: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GROUPED: dict[str, Any] = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 10,
    "n_group": 2, "topk_group": 1,
}  # fmt: skip
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 8,
}  # fmt: skip
_SPACE: dict[str, Any] = {
    "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}  # fmt: skip
_LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_HYBRID: dict[str, Any] = {
    "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    "num_key_value_heads": 2, "n_mamba_heads": 1, "use_mamba_kernels": False,
}  # fmt: skip
_CLASSES: dict[str, Any] = {
    "id2label": dict(enumerate(CLASSES)),
    "label2id": {name: index for index, name in enumerate(CLASSES)},
    "pad_token_id": SPECIAL["[PAD]"],
}


@dataclass(frozen=True)
class Family:
    """A family.

    Attributes:
        kind: of its configuration, as transformers calls it without ``Config``.
        tiny: its sizes in tests.
        checkpoint: a published one, where its sizes are known: the configuration's defaults, but
            for these:
        published: what it has otherwise.
        adapter: whether it is a LoRA adapter of it that is attributed.
        dtype: that its code can compute in.
        refused: whether no run can be made with it.
        objective: the kind of its models.
    """

    kind: str
    tiny: Mapping[str, Any]
    checkpoint: str = ""
    published: Mapping[str, Any] = field(default_factory=dict)
    adapter: bool = False
    dtype: str = "float64"
    refused: bool = False
    objective: str = CAUSAL

    @property
    def name(self) -> str:
        """As the table has it."""
        if self.objective != CAUSAL:
            return f"{self.kind} ({self.objective})"
        return f"{self.kind} with LoRA" if self.adapter else self.kind

    @property
    def loader(self) -> Any:
        """The class of transformers that makes its models."""
        return getattr(transformers, KINDS[self.objective].loader)

    def config(self, published: bool = False) -> PretrainedConfig:
        """The configuration, tiny or as it was published."""
        kind = getattr(transformers, f"{self.kind}Config")
        return kind(**(self.published if published else self.tiny))


#: With an MLP in each block.
DENSE = (
    Family("GPT2", _GPT, "openai-community/gpt2"),
    Family("GPTNeoX", _TINY, "EleutherAI/gpt-neox-20b"),
    Family("GPTJ", _GPT | {"rotary_dim": 4}, "EleutherAI/gpt-j-6B"),
    Family(
        "GPTNeo",
        _ENDS | _WORDS | {"max_position_embeddings": CONTEXT, "hidden_size": 16,
                          "intermediate_size": 12, "num_layers": 2, "num_heads": 2,
                          "attention_types": [[["global", "local"], 1]], "window_size": 4},
        "EleutherAI/gpt-neo-1.3B",
    ),
    Family("CodeGen", _GPT | {"n_head": 4, "rotary_dim": 4},
           "Salesforce/codegen-350M-mono",
           {"n_embd": 1024, "n_layer": 20, "n_head": 16, "vocab_size": 51200, "rotary_dim": 32}),
    Family("GPTBigCode", _GPT, "bigcode/starcoder",
           {"n_embd": 6144, "n_layer": 40, "n_head": 48, "n_inner": 24576, "vocab_size": 49152,
            "n_positions": 8192}),
    Family("Bloom", _ENDS | _WORDS | {"hidden_size": 16, "n_layer": 2, "n_head": 2},
           "bigscience/bloom-560m",
           {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880}),
    Family("Mpt", _WORDS | {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": CONTEXT},
           "mosaicml/mpt-7b",
           {"d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432}),
    Family("OPT", _TINY | {"ffn_dim": 24, "word_embed_proj_dim": 12}, "facebook/opt-125m"),
    Family("XGLM",
           _ENDS | _WORDS | {"max_position_embeddings": CONTEXT, "d_model": 16, "ffn_dim": 24,
                             "num_layers": 2, "attention_heads": 2},
           "facebook/xglm-564M", dtype="float32"),
    Family("Falcon", _TINY, "tiiuae/falcon-7b"),
    Family("Persimmon", _TINY, "adept/persimmon-8b-base"),
    Family("StableLm", _TINY, "stabilityai/stablelm-3b-4e1t"),
    Family("Phi", _TINY, "microsoft/phi-1"),
    Family("Phi3", _TINY, "microsoft/Phi-3-mini-4k-instruct"),
    Family("Llama", _TINY, "meta-llama/Llama-2-7b-hf"),
    Family("Mistral", _TINY, "mistralai/Mistral-7B-v0.1"),
    Family("Qwen2", _TINY, "Qwen/Qwen2-7B",
           {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}),
    Family("Qwen3", _EIGHT, "Qwen/Qwen3-8B",
           {"intermediate_size": 12288, "num_hidden_layers": 36, "num_key_value_heads": 8}),
    Family("Gemma", _EIGHT, "google/gemma-7b"),
    Family("Gemma2", _EIGHT, "google/gemma-2-2b"),
    Family("Gemma3Text", _EIGHT, "google/gemma-3-1b-pt",
           {"vocab_size": 262144, "hidden_size": 1152, "intermediate_size": 6912,
            "num_attention_heads": 4, "num_key_value_heads": 1}),
    Family(
        "Gemma3",
        _ENDS | {
            "text_config": _EIGHT,
            "vision_config": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                              "num_attention_heads": 1, "image_size": 28, "patch_size": 14},
            "mm_tokens_per_image": 4, "image_token_index": 47, "boi_token_index": 46,
            "eoi_token_index": 45,
        },
        "google/gemma-3-4b-pt",
        {
            "text_config": {"vocab_size": 262208, "hidden_size": 2560, "intermediate_size": 10240,
                            "num_hidden_layers": 34},
            "vision_config": {"hidden_size": 1152, "intermediate_size": 4304,
                              "num_hidden_layers": 27, "num_attention_heads": 16,
                              "image_size": 896, "patch_size": 14, "vision_use_head": False},
        },
    ),
    Family("Cohere", _TINY, "CohereForAI/c4ai-command-r-v01"),
    Family("Cohere2", _EIGHT),
    Family("Olmo", _TINY, "allenai/OLMo-7B-hf"),
    Family("Olmo2", _TINY, "allenai/OLMo-2-1124-7B", {"vocab_size": 100352}),
    Family("Starcoder2", _TINY, "bigcode/starcoder2-3b"),
    Family("Granite", _TINY, "ibm-granite/granite-3.0-8b-base",
           {"vocab_size": 49155, "intermediate_size": 12800, "num_hidden_layers": 40,
            "num_key_value_heads": 8, "tie_word_embeddings": True}),
    Family("Glm", _EIGHT),
    Family("Ernie4_5", _EIGHT, "baidu/ERNIE-4.5-0.3B-PT"),
    Family("SmolLM3", _TINY | {"no_rope_layers": [1, 0]}, "HuggingFaceTB/SmolLM3-3B"),
    Family("SeedOss", _EIGHT, "ByteDance-Seed/Seed-OSS-36B-Instruct", {"hidden_size": 5120}),
    Family("Exaone4", _EIGHT | {"sliding_window": 4}, "LGAI-EXAONE/EXAONE-4.0-32B",
           {"hidden_size": 5120, "intermediate_size": 27392, "num_hidden_layers": 64,
            "num_attention_heads": 40, "num_key_value_heads": 8}),
    Family("Apertus", _TINY, "swiss-ai/Apertus-8B-2509",
           {"intermediate_size": 21504, "num_key_value_heads": 8}),
    Family("Arcee", _EIGHT),
    Family("Helium", _EIGHT, "kyutai/helium-1-preview-2b"),
    Family("HunYuanDenseV1", _EIGHT),
    Family("Nemotron", _EIGHT),
    Family("XLM", _WORDS | {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "causal": True,
                            "max_position_embeddings": CONTEXT}),
    Family("CTRL", _WORDS | {"n_embd": 16, "n_layer": 2, "n_head": 2, "dff": 24,
                             "n_positions": CONTEXT}),
)  # fmt: skip

#: State spaces, linear recurrences, and what has them beside attention.
RECURRENT = (
    Family("Mamba", _ENDLESS | {"state_size": 4}, "state-spaces/mamba-2.8b-hf",
           {"hidden_size": 2560, "num_hidden_layers": 64}),
    Family("Mamba2",
           _ENDLESS | {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1,
                       "chunk_size": 8},
           "mistralai/Mamba-Codestral-7B-v0.1"),
    Family("FalconMamba", _ENDLESS | {"state_size": 4}, "tiiuae/falcon-mamba-7b",
           {"hidden_size": 4096, "num_hidden_layers": 64, "vocab_size": 65024,
            "tie_word_embeddings": False}),
    Family("Rwkv", _ENDLESS | {"attention_hidden_size": 16},
           "RWKV/rwkv-4-169m-pile",
           {"hidden_size": 768, "num_hidden_layers": 12}),
    Family("RecurrentGemma", _TINY | {"lru_width": 16, "num_hidden_layers": 3},
           "google/recurrentgemma-2b", {"intermediate_size": 15360, "num_key_value_heads": 1}),
    Family("Lfm2", _TINY | {"layer_types": ["conv", "full_attention"],
                            "block_auto_adjust_ff_dim": False},
           "LiquidAI/LFM2-1.2B",
           {"hidden_size": 2048, "num_hidden_layers": 16,
            "layer_types": ["full_attention" if place in (2, 5, 8, 10, 12, 14) else "conv"
                            for place in range(16)]}),
    Family("Bamba", _TINY | _SPACE | {"attn_layer_indices": [1]}),
    Family("FalconH1", _EIGHT | _SPACE | {"mamba_d_ssm": 32}),
    Family("Zamba",
           _TINY | _HYBRID | {"attention_hidden_size": 32, "attention_head_dim": 16,
                              "mamba_d_state": 4},
           "Zyphra/Zamba-7B-v1"),
    Family("Zamba2",
           _TINY | _HYBRID | {"mamba_d_state": 4, "mamba_headdim": 8, "mamba_ngroups": 1,
                              "n_mamba_heads": 4, "num_mem_blocks": 1, "chunk_size": 8}),
    Family("GraniteMoeHybrid",
           _TINY | _SPACE | {"shared_intermediate_size": 24, "num_local_experts": 0,
                             "layer_types": ["mamba", "attention"]}),
)  # fmt: skip

#: Mixtures whose experts are stacked.
EXPERTS = (
    Family("Mixtral", _TINY | _LOCAL, "mistralai/Mixtral-8x7B-v0.1"),
    Family("Qwen2Moe", _TINY | _FEW | {"shared_expert_intermediate_size": 14},
           "Qwen/Qwen1.5-MoE-A2.7B"),
    Family("Qwen3Moe", _EIGHT | _FEW | {"norm_topk_prob": True}, "Qwen/Qwen3-30B-A3B",
           {"num_hidden_layers": 48, "head_dim": 128, "norm_topk_prob": True}),
    Family("Qwen3Next",
           _EIGHT | _FEW | _LINEAR | {"shared_expert_intermediate_size": 14},
           "Qwen/Qwen3-Next-80B-A3B-Instruct"),
    Family("Olmoe", _TINY | _FEW, "allenai/OLMoE-1B-7B-0924", {"intermediate_size": 1024}),
    Family(
        "GptOss",
        _EIGHT | _LOCAL | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        "openai/gpt-oss-120b",
    ),
    Family(
        "GraniteMoe",
        _TINY | _LOCAL,
        "ibm-granite/granite-3.0-1b-a400m-base",
        {"vocab_size": 49155, "hidden_size": 1024, "intermediate_size": 512,
         "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8,
         "num_local_experts": 32, "num_experts_per_tok": 8, "tie_word_embeddings": True},
    ),
    Family("Phimoe", _TINY | _LOCAL, "microsoft/Phi-3.5-MoE-instruct"),
    Family("Ernie4_5_Moe",
           _TINY | {"moe_intermediate_size": 10, "moe_k": 2, "moe_num_experts": 4,
                    "moe_num_shared_experts": 1, "moe_layer_start_index": 1},
           "baidu/ERNIE-4.5-21B-A3B-PT"),
    Family("DeepseekV3", _TINY | _GROUPED | _LATENT | {"first_k_dense_replace": 1,
                                                       "num_mtp_layers": 0},
           "deepseek-ai/DeepSeek-V3"),
    Family("Glm4Moe",
           _EIGHT | _GROUPED | {"first_k_dense_replace": 1, "num_mtp_layers": 0},
           "zai-org/GLM-4.5-Air"),
    Family("Dots1",
           _EIGHT | _GROUPED | {"first_k_dense_replace": 1, "n_shared_experts": 1},
           "rednote-hilab/dots.llm1.base",
           {"hidden_size": 4096, "n_shared_experts": 2, "n_routed_experts": 128,
            "num_experts_per_tok": 6, "first_k_dense_replace": 1}),
    Family("MiniMax",
           _EIGHT | _LOCAL | {"layer_types": ["linear_attention", "full_attention"],
                              "block_size": 8}),
    Family(
        "Jamba",
        _TINY | {"num_hidden_layers": 3, "num_experts": 4, "num_experts_per_tok": 2,
                 "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 4,
                 "mamba_dt_rank": 4, "use_mamba_kernels": False},
        "ai21labs/Jamba-v0.1",
    ),
    Family(
        "NemotronH",
        _EIGHT | {"layers_block_type": ["mamba", "moe", "attention", "mlp"], "n_groups": 1,
                  "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "chunk_size": 8,
                  "n_routed_experts": 4, "moe_intermediate_size": 10,
                  "moe_shared_expert_intermediate_size": 10, "num_experts_per_tok": 2},
    ),
    Family("Llama4Text",
           _EIGHT | {"num_local_experts": 4, "intermediate_size_mlp": 12},
           "meta-llama/Llama-4-Scout-17B-16E", {"num_local_experts": 16}),
    Family("JetMoe", _TINY | _LOCAL | {"kv_channels": 8}, "jetmoe/jetmoe-8b",
           {"num_hidden_layers": 24}),
)  # fmt: skip

#: Experts that stay stacked, what is trained beside a frozen model, and what is no causal one.
OTHERS = (
    Family("LongcatFlash",
           _TINY | _LATENT | {"num_layers": 1, "ffn_hidden_size": 12, "head_dim": 4,
                              "expert_ffn_hidden_size": 10, "n_routed_experts": 4,
                              "zero_expert_num": 1, "moe_topk": 2}),
    Family("Llama", _TINY, adapter=True),
    Family("XLNet", _WORDS | {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 12},
           dtype="float32", refused=True),
    Family("Bert", _TINY, refused=True),
)  # fmt: skip

#: Of other objectives than the next token.
OTHER_KINDS = (
    Family("Bert", _TINY, "google-bert/bert-base-uncased", objective=MASKED),
    Family("Roberta", _TINY | {"pad_token_id": 1, "max_position_embeddings": CONTEXT + 2},
           "FacebookAI/roberta-base", {"max_position_embeddings": 514, "type_vocab_size": 1},
           objective=MASKED),
    Family("Electra", _TINY | {"embedding_size": 10}, objective=MASKED),
    Family("Bert", _TINY | _CLASSES, objective=CLASSIFICATION),
    Family("GPT2", _GPT | _CLASSES, objective=CLASSIFICATION),
    Family("Llama", _TINY | _CLASSES, objective=CLASSIFICATION),
    Family("T5", _WORDS | {"d_model": 12, "d_kv": 4, "d_ff": 14, "num_layers": 2, "num_heads": 2,
                           "pad_token_id": 0, "eos_token_id": SEP, "decoder_start_token_id": 0},
           "google-t5/t5-small", objective=SEQ2SEQ),
    Family("Bart",
           _WORDS | {"max_position_embeddings": CONTEXT, "d_model": 12, "encoder_layers": 2,
                     "decoder_layers": 2, "encoder_attention_heads": 2,
                     "decoder_attention_heads": 2, "encoder_ffn_dim": 14, "decoder_ffn_dim": 16,
                     "pad_token_id": 1, "bos_token_id": CLS, "eos_token_id": SEP,
                     "decoder_start_token_id": SEP, "forced_eos_token_id": SEP},
           "facebook/bart-large", objective=SEQ2SEQ),
)  # fmt: skip

FAMILIES = (*DENSE, *RECURRENT, *EXPERTS, *OTHER_KINDS, *OTHERS)


def tiny_model(family: Family, seed: int = 0) -> nn.Module:
    """A model of random weights, large enough that routers choose clearly."""
    torch.manual_seed(seed)
    model = family.loader.from_config(family.config()).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = 0.4 * torch.randn(weight.shape)
    return model
