"""Models whose backward pass cannot be differentiated are refused before products are made."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.modules import shapes_of, track
from rayinfluence.model.product_checks import refuse_no_products
from rayinfluence.testing import tiny_gpt2, tiny_mlp
from rayinfluence.testing.models import TokenMLP


class Once(torch.autograd.Function):
    """Tanh with a backward pass that says that it has no other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(y := torch.tanh(x))
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * (1 - y * y)


class Blind(Once):
    """And one that torch cannot see into, and says nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        # As a kernel of somebody's own: what comes out of it is linked to nothing.
        return gradient + (gradient * (1 - y * y) - gradient).detach()


class Through(nn.Module):
    """A model whose activation is one of these."""

    def __init__(self, function: type[Once]) -> None:
        super().__init__()
        self.inside = TokenMLP()
        self.function = function

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.function.apply(self.inside.inner(self.inside.embed(tokens_BT)))
        return self.inside.head(hidden)


def check(model: nn.Module, curvature: Any, patterns: Any = ("*",)) -> None:
    for weight in model.parameters():
        weight.requires_grad_(False)
    modules = track(model, patterns)
    refuse_no_products(model, modules, shapes_of(model, modules), range(40), curvature)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("made", [tiny_gpt2, tiny_mlp])
def test_others_pass(made: Any, curvature: str) -> None:
    check(made(dtype=torch.float32), curvature)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("function", [Once, Blind])
def test_they_are_refused(function: type[Once], curvature: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="backward pass") as caught:
        check(Through(function), curvature, ["inside.inner", "inside.head"])
    assert "Leave `scan.solver` out" in str(caught.value)
