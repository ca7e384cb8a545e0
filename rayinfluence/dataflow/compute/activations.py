"""Bytes that a batch keeps from its forward pass for its backward pass."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.model.answers import objective
from rayinfluence.model.batches import Batch
from rayinfluence.model.capture import backward, input_of
from rayinfluence.model.feeding import sides_of
from rayinfluence.model.rows import Rows


def activation_bytes(replica: Replica, batch: Batch) -> int:
    """What autograd saves, and inputs of tracked modules; weights and buffers are not counted.

    Args:
        replica: the model with its tracked modules.
        batch: is run forward, as capture does.
    """
    # A part of the graph that nothing needs goes during the pass, and others take its memory.
    saved = WeakSet[_Saved]()
    inputs: list[Tensor] = []
    kept: dict[int, int] = {}
    model = replica.model
    of_model = {_place(one) for one in (*model.parameters(), *model.buffers())}

    def keep(tensor: Tensor) -> _Saved:
        # Without its history: of a function that saves its result that is a circle.
        saved.add(one := _Saved(tensor.detach()))
        return one

    def take(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = input_of(args, kwargs)
        if given is not None:
            inputs.append(given.detach())

    def forward() -> Tensor:
        value = objective(replica.language_model, batch)  # holds the graph
        for tensor in [*inputs, *(one.tensor for one in saved)]:
            if _place(tensor) not in of_model:
                kept[_place(tensor)] = tensor.untyped_storage().nbytes()
        del value
        raise _Counted

    handles = [
        module.register_forward_pre_hook(take, with_kwargs=True)
        for module in replica.modules.values()
    ]
    try:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one.tensor),
            suppress(_Counted),
        ):
            backward(replica.modules, batch.shape, forward, lambda *_: None, sides_of(model, batch))
    finally:
        for handle in handles:
            handle.remove()
    return sum(kept.values())


class _Saved:
    """A tensor that autograd saved; it goes with the part of the graph that it was saved for."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Counted(Exception):
    """The forward pass is done, and its backward pass says nothing more."""


def routed_numbers(replica: Replica, batch: Batch) -> int:
    """Numbers that layers of experts see of a batch: of its tokens those that chose them.

    Args:
        replica: the model with its tracked modules.
        batch: is run forward and backward, if there are such layers.
    """
    found = 0

    def count(name: str, rows: Rows) -> None:
        nonlocal found
        if replica.shapes[name].routed:
            found += rows.inputs_BRI.numel() + rows.grads_BRO.numel()

    if any(shape.routed for shape in replica.shapes.values()):
        value = lambda: objective(replica.language_model, batch)  # noqa: E731
        backward(replica.modules, batch.shape, value, count, sides_of(replica.model, batch))
    return found


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
