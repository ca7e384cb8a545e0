"""JetMoe's experts, taken apart: two stacks of layers each, that get rows sorted by expert.

Which token a row is of only their router knows, so what it said last is kept beside it.

n routed row, I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.model.routed import RoutedLinear, slices


def take_parallel_apart(model: nn.Module) -> None:
    """Put layers in the place of all stacks, ``input_linear.3``, in place."""
    for owner in list(model.modules()):
        stacks = [one for one in owner.children() if type(one).__name__ == "JetMoeParallelExperts"]
        router = getattr(owner, "router", None)
        if not stacks or not isinstance(router, nn.Module):
            continue
        router.register_forward_hook(_keep)
        for stack in stacks:
            for number, weight in enumerate(slices(stack._parameters.pop("weight"))):
                stack.add_module(str(number), RoutedLinear(weight, None))
            stack.forward = partial(_of_sorted, stack, router)


def _keep(router: Any, _given: object, said: Sequence[Any]) -> None:
    """Of its sorted rows, the tokens."""
    router.places_n = said[1]


def _of_sorted(stack: nn.Module, router: Any, rows_nI: Tensor, sizes: list[int]) -> Tensor:
    """What the layers give for rows of which each has the next so many."""
    parts = zip(stack.children(), rows_nI.split(sizes), router.places_n.split(sizes), strict=True)
    return torch.cat([layer(rows, places) for layer, rows, places in parts if len(rows)])
