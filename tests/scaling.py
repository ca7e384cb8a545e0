"""Somebody else's kind of layer: one that scales what it gets before it multiplies it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.model.layers import TransposedLinear


class Scaling(nn.Module):
    """A layer that first scales what it gets, by numbers of its own.

    Args:
        d_in, d_out: its widths.
        learned: whether the numbers are a parameter, which is not tracked.
    """

    def __init__(self, d_in: int, d_out: int, learned: bool = False) -> None:
        super().__init__()
        if learned:
            self.scale = nn.Parameter(torch.randn(d_in))
        else:
            self.register_buffer("scale", torch.randn(d_in))
        self.weight = nn.Parameter(torch.randn(d_in, d_out))
        self.bias = nn.Parameter(torch.randn(d_out))

    def forward(self, given: Tensor) -> Tensor:
        return (given * self.scale) @ self.weight + self.bias


class Scaled(TransposedLinear):
    """The kind of those."""

    def fits(self, module: nn.Module) -> bool:
        return isinstance(module, Scaling)

    def widths(self, module: nn.Module) -> tuple[int, int]:
        scaling: Any = module
        return tuple(scaling.weight.shape)

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        scaling: Any = module
        return given * scaling.scale  # type: ignore[no-any-return]
