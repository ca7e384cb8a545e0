"""Layers of experts: they get rows of some tokens, with the places of these.

n routed row, I input width, O output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayinfluence.storage.shared import ALIGNMENT


class RoutedLinear(nn.Module):
    """W a + b for rows of tokens that were chosen for it.

    Args:
        weight: [O, I].
        bias: [O], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, rows_nI: Tensor, places_n: Tensor) -> Tensor:
        """Of rows [n, I]; ``places_n`` says which token in [B T] each is of, to who listens."""
        return nn.functional.linear(rows_nI, self.weight, self.bias)


class TransposedRoutedLinear(RoutedLinear):
    """The same with a weight that is kept as [I, O]."""

    def forward(self, rows_nI: Tensor, places_n: Tensor) -> Tensor:
        """As above."""
        return nn.functional.linear(rows_nI, self.weight.T, self.bias)


def slices(stack: Tensor | None) -> list[Tensor]:
    """The tensors of a stack, in its memory if all of them are where vector units read them.

    Of a stack that has hardly any memory, as one row that is seen many times, they are in that.
    """
    if stack is None:
        return []
    found = list(stack.detach().unbind())
    if 0 in stack.stride():
        return found
    if all(one.is_contiguous() and one.data_ptr() % ALIGNMENT == 0 for one in found):
        return found
    # All, so that nothing holds the stack.
    return [one.clone(memory_format=torch.contiguous_format) for one in found]
