"""Models that compute in float64 throughout, as what an exact reference is held against has to.

What stays in float32 (norms, angles of positions) rounds by the width of a batch, on some
processors and not on others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Wide(TorchFunctionMode):
    """Whatever asks for float32 gets float64."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        named = {name: _wide(value) for name, value in (kwargs or {}).items()}
        return func(*map(_wide, args), **named)


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def widened(model: nn.Module) -> nn.Module:
    """The model, in place, computing in float64 throughout: most norms and softmax do not.

    One of another dtype stays as it is.
    """
    if next(model.parameters()).dtype != torch.float64:
        return model
    model.double()  # some keep their routers in float32
    for module in {model, model.base_model, *model.children()}:
        module.forward = partial(_forward, module)
    return model


def _forward(module: nn.Module, *args: Any, **named: Any) -> Any:
    with _Wide():
        return type(module).forward(module, *args, **named)
