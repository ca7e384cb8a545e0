"""What a sequence is must not depend on its company, or on its length."""

from __future__ import annotations

import pytest
import torch
from test_preflight import check, seeded
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForCausalLM

from rayinfluence.errors import ModelError


class Odd(nn.Module):
    """A layer that is used in an odd way, by what else is in the batch or how long it is."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 8)
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 48)
        self.how = how

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        n, length = tokens_BT.shape
        if self.how == "turned":
            found = self.layer(hidden.flip(0)).flip(0)
        elif self.how == "moved on":
            found = self.layer(hidden.roll(1, 0)).roll(-1, 0)
        elif self.how == "long ones by hand" and length > 20:
            found = nn.functional.linear(hidden, self.layer.weight, self.layer.bias)
        else:
            found = self.layer(hidden)
        scale = 1.5 if self.how == "many" and n > 3 else 1.0
        return self.head(hidden + scale * torch.tanh(found))


@pytest.mark.parametrize("how", ["turned", "moved on", "many"])
def test_a_layer_that_mixes_up_the_batch_is_refused_unless_each_is_alone(how: str) -> None:
    model = seeded(lambda: Odd(how))
    with pytest.raises(
        ModelError, match=r"depends on the others in its batch: .*layer.*batch_tokens: 1"
    ):
        check(model)
    check(model, alone=True)
    check(seeded(lambda: Odd("")))


def test_a_weight_that_is_used_otherwise_for_long_sequences_is_refused() -> None:
    model = seeded(lambda: Odd("long ones by hand"))
    check(model, context=20)
    with pytest.raises(ModelError, match=r"gradient of 1 layers .*: layer"):
        check(model, context=40)


@pytest.mark.parametrize("is_small", [True, False])
def test_positions_that_begin_behind_padding_s_are_fewer(
    monkeypatch: pytest.MonkeyPatch, is_small: bool
) -> None:
    """Whole sequences are tried in models of any size, as far as the first tracked layer."""
    monkeypatch.setattr("rayinfluence.model.positions._SECONDS", 10**12 if is_small else 0)
    config = RobertaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        pad_token_id=1,
        is_decoder=True,
    )
    model = seeded(lambda: RobertaForCausalLM(config))
    check(model, ("*.intermediate.*",), context=14)
    with pytest.raises(ModelError, match=r"corpus\.context: .* more than 14 tokens"):
        check(model, ("*.intermediate.*",), context=16)
