"""What has no second derivative is refused before a document is read, and in words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import shapes_of
from rayinfluence.model.second_derivatives import refuse_no_second_derivatives
from rayinfluence.testing import tiny_gpt2, tiny_llama


class Square(torch.autograd.Function):
    """x^2, as its author differentiates it: with numbers that torch no longer follows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.twice = 2 * x
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.twice


class Once(Square):
    """The same, and it says so."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.twice


class Squaring(nn.Module):
    """A language model with a square in it."""

    def __init__(self, square: Any, with_embedding: bool = True) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(48, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 48)
        self.square = square
        if with_embedding:
            self.get_input_embeddings = lambda: self.embed

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.head(self.square(self.layer(self.embed(tokens_BT))))


def check(model: nn.Module, names: list[str]) -> None:
    modules = {name: model.get_submodule(name) for name in names}
    refuse_no_second_derivatives(model, modules, shapes_of(model, modules), range(10, 40))


def squaring(square: Any, **more: bool) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return freeze(Squaring(square, **more))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_ordinary_models_pass(dtype: torch.dtype) -> None:
    check(tiny_gpt2(dtype=dtype, attention="sdpa"), ["transformer.h.0.mlp.c_fc"])
    check(tiny_llama(dtype=dtype, attention="sdpa"), ["model.layers.1.mlp.up_proj"])
    check(squaring(lambda x: x * x).to(dtype), ["layer", "embed"])


@pytest.mark.parametrize("square", [Square, Once])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_backward_pass_that_torch_cannot_see_into_is_refused(
    dtype: torch.dtype, square: Any
) -> None:
    """Also where torch knows of it, as it does not pass through what it would refuse."""
    with pytest.raises(ModelError, match=r"Squaring they are \d+% off .*code of its own.*Leave"):
        check(squaring(square.apply).to(dtype), ["layer"])
    with pytest.raises(ModelError, match=r"Squaring they are 100% off"):
        check(squaring(Once.apply).to(torch.bfloat16), ["layer"])


def test_an_operation_that_has_none_is_refused() -> None:
    """As fused attention has none, which is why it is not used."""

    def attend(x_BTD: Tensor) -> Tensor:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(*(3 * [x_BTD[:, None]]))[0][:, 0]

    said = r"Squaring cannot differentiate its backward pass .*not implemented.*Leave `scan"
    with pytest.raises(ModelError, match=said):
        check(squaring(attend), ["layer"])


def test_a_model_that_does_not_name_its_embedding_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Squaring does not say which module embeds"):
        check(squaring(lambda x: x * x, with_embedding=False), ["layer"])
