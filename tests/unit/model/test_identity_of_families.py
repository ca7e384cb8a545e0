"""Families that call the keys of their configurations otherwise than most do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CodeGenConfig,
    GPTJConfig,
    MptConfig,
    PreTrainedConfig,
)

from rayinfluence.model.identity import model_differences, model_digest, model_identity
from rayinfluence.model.load import load_model

_WORDS = {"vocab_size": 48, "bos_token_id": 0, "eos_token_id": 0}
_GPT = _WORDS | {"n_positions": 16, "n_embd": 16, "n_layer": 2, "rotary_dim": 4}
CONFIGS: dict[str, PreTrainedConfig] = {
    "mpt": MptConfig(vocab_size=48, d_model=16, n_layers=2, n_heads=2, max_seq_len=16),
    "gptj": GPTJConfig(**_GPT, n_head=2),
    "bloom": BloomConfig(**_WORDS, hidden_size=16, n_layer=2, n_head=2),
    "codegen": CodeGenConfig(**_GPT, n_head=4),
}
#: By family, edits of its config.json that change what it computes, and others that do not.
EDITS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "mpt": (
        [
            {"attn_config": {"softmax_scale": 0.5}},
            {"attn_config": {"clip_qkv": 0.01}},
            {"layer_norm_epsilon": 0.1},
            {"n_heads": 4},
        ],
        [
            {"attn_config": {"attn_impl": "flash"}},
            {"attn_config": {"attn_pdrop": 1}},
            {"norm_type": "another"},
            {"emb_pdrop": 0.2},
            {"init_device": "meta"},
        ],
    ),
    "gptj": (
        [{"rotary_dim": 8}, {"activation_function": "relu"}, {"layer_norm_epsilon": 0.1}],
        [{"attn_pdrop": 0.3}, {"rotary": True}, {"task_specific_params": {"a": 1}}],
    ),
    "bloom": (
        [
            {"n_head": 4},
            {"layer_norm_epsilon": 0.1},
            {"apply_residual_connection_post_layernorm": True},
        ],
        [{"hidden_dropout": 0.3}, {"seq_length": 32}, {"offset_alibi": 100}],
    ),
    "codegen": (
        [{"rotary_dim": 2}, {"activation_function": "relu"}, {"layer_norm_epsilon": 0.1}],
        [{"attn_pdrop": 0.2}, {"scale_attn_weights": False}, {"gradient_checkpointing": True}],
    ),
}


@pytest.mark.parametrize("family", EDITS)
def test_a_model_is_another_where_it_computes_something_else_and_there_alone(
    family: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(CONFIGS[family])
    for weight in made.parameters():
        if weight.ndim > 1:
            weight.data.mul_(8)  # so that attention is not uniform
    made.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    tokens = torch.arange(1, 13)[None]

    def loaded(edit: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        edited = {
            key: {**whole.get(key, {}), **value} if isinstance(value, dict) else value
            for key, value in edit.items()
        }
        (tmp_path / "config.json").write_text(json.dumps(whole | edited))
        model = load_model(str(tmp_path), torch.float64)
        return model_identity(model), model(tokens).logits

    before, logits = loaded({})
    computing, idle = EDITS[family]
    for edit in computing:
        found, other = loaded(edit)
        assert not torch.equal(other, logits), edit
        (key,) = edit
        assert any(line.startswith(f"config.{key}") for line in model_differences(found, before))
        assert model_digest(found) != model_digest(before)
    for edit in idle:
        found, other = loaded(edit)
        assert torch.equal(other, logits), edit
        assert model_differences(found, before) == [], edit
        assert model_digest(found) == model_digest(before)
