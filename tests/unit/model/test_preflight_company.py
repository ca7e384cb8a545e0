"""What a sequence is must not depend on its company, or on its length."""

from __future__ import annotations

from collections.abc import Callable

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


class Cut(nn.Module):
    """No gradient comes back through a layer in batches of some widths."""

    def __init__(self, at: Callable[[int], bool]) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.at = at

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        hidden = hidden + torch.tanh(self.first(hidden))
        found = torch.tanh(self.second(hidden))
        return self.head(hidden + (found.detach() if self.at(tokens_BT.shape[1]) else found))


WIDTHS: dict[str, Callable[[int], bool]] = {
    "more than 20": lambda n: n > 20,
    "more than 20 and up to 40": lambda n: 20 < n <= 40,
    "more than 100": lambda n: n > 100,
    "odd and more than 20": lambda n: n % 2 == 1 and n > 20,
    "odd and 21 to 63": lambda n: n % 2 == 1 and 20 < n < 64,
    "even and 21 to 63": lambda n: n % 2 == 0 and 20 < n < 64,
    "14 to 20": lambda n: 14 <= n <= 20,
}


@pytest.mark.parametrize(
    ("at", "dtype"),
    [*((at, torch.float64) for at in WIDTHS), ("more than 100", torch.bfloat16)],
)
def test_a_gradient_that_wide_batches_lack_is_seen_in_the_short_sequence_beside_a_long_one(
    at: str, dtype: torch.dtype
) -> None:
    model = seeded(lambda: Cut(WIDTHS[at]), dtype)
    with pytest.raises(ModelError, match=r"depends on the others in its batch: .*batch_tokens: 1"):
        check(model, ("first", "second"), context=256)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_that_are_the_same_in_every_batch_pass(dtype: torch.dtype) -> None:
    check(seeded(lambda: Cut(lambda n: False), dtype), ("first", "second"), context=256)
    # That is how the model is with each sequence, and no error of ours.
    model = seeded(lambda: Cut(WIDTHS["more than 20"]), dtype)
    check(model, ("first", "second"), context=256, alone=True)
