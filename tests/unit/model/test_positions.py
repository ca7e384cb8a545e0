"""Positions of sequences that are batches of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rayinfluence.errors import ModelError
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import track
from rayinfluence.model.positions import check_positions


def check_alone(angles: dict[str, Any], context: int) -> None:
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        rope_parameters={"rope_theta": 10000.0, **angles},
    )
    model = freeze(LlamaForCausalLM(config))
    tracked = track(model, ["*.mlp.*"])
    check_positions(model, tracked, range(48), context, torch.device("cpu"), alone=True)


def test_angles_may_depend_on_a_sequence_s_own_length() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 16, "factor": 2.0}
    check_alone(rope | factors, 40)


def test_angles_that_depend_on_earlier_sequences_are_refused_with_the_context_that_works() -> None:
    """They grow with the longest, and stay so."""
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    check_alone(dynamic, 16)
    with pytest.raises(ModelError, match=r"sequences that ran before .* order\. .* at most 16\."):
        check_alone(dynamic, 40)
