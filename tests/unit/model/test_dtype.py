"""A model that keeps its first parameter in another dtype than most of them."""

from __future__ import annotations

import pytest
import torch
from test_preflight import check, seeded
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.dtype import dtype_of
from rayinfluence.model.foreign import FORWARD, in_words


class Kept(nn.Module):
    """Of bfloat16, with a scale of float32 before all other parameters."""

    def __init__(self, fails: bool = False, shift: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.embed, self.layer, self.head = nn.Embedding(48, 8), nn.Linear(8, 8), nn.Linear(8, 48)
        self.fails, self.shift = fails, shift

    def forward(self, tokens_BT: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("no kernel")
        hidden = self.embed(tokens_BT) * self.scale.to(self.embed.weight.dtype)
        return self.head(torch.tanh(self.layer(hidden))) + self.shift


def kept(fails: bool = False, shift: float = 0.0) -> nn.Module:
    model = seeded(lambda: Kept(fails, shift), torch.bfloat16)
    model.scale.data = model.scale.data.float()
    return model


def test_the_dtype_of_a_model_is_that_of_most_of_its_parameters() -> None:
    model = kept()
    assert next(model.parameters()).dtype == torch.float32
    assert dtype_of(model) == torch.bfloat16
    assert dtype_of(model.float()) == torch.float32
    model.large = nn.Parameter(torch.zeros(9999, dtype=torch.int8), requires_grad=False)
    assert dtype_of(model) == torch.float32


def test_rounding_is_that_of_the_dtype_of_most() -> None:
    assert check(kept(), ("*layer",)).gradients > 1e-3  # what float32 would not do


def test_sentences_name_the_dtype_of_most_that_of_others_and_one_to_try() -> None:
    numbers = r"bfloat16 \(some weights in float32\) on cpu: .*kernel.* Try `dtype: float32` or "
    with pytest.raises(ModelError, match=f"cannot run on 7 tokens in {numbers}"):
        check(kept(fails=True))
    with pytest.raises(ModelError, match=r"in float32 on cpu: .*kernel.* Try another `dtype` or "):
        check(kept(fails=True).float())
    with pytest.raises(ModelError, match=r"says nothing finite of .* sequences in bfloat16"):
        check(kept(shift=float("nan")))


def test_an_index_out_of_range_is_no_matter_of_the_dtype() -> None:
    said = r"IndexError: out of range in self\. Its config\.json may not fit its code; name another"
    with pytest.raises(ModelError, match=said), in_words(kept(), "run", FORWARD):
        raise IndexError("out of range in self")
