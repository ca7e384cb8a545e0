"""A model over several devices, since its weights, or what is made of them, do not fit one.

A block (the member of a list that holds linear layers) has all its weights on one device, and
whatever is in no block is on the first. What a block is called with is moved to its device, and
what it gives to the first one: nothing outside of blocks, and no objective, meets a second device.
Hidden states are small beside the work of a block.

By hooks before a block's own code and after it, so that capture, whose hooks are the layers', sees
what a layer gets where that layer is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from rayinfluence.errors import ModelError
from rayinfluence.model.parts import blocks_of


def place(model: nn.Module, devices: Sequence[torch.device]) -> nn.Module:
    """Move a model to a device, or deal its blocks over several; tied weights stay tied.

    Weight by weight, so that no more than one of them is there twice.

    Raises:
        ModelError: it has fewer blocks than there are devices.
    """
    if len(devices) == 1:
        return model.to(devices[0])
    blocks = dealt(model, devices)
    homes = _homes(model, blocks)
    for tensor in _tensors(model):
        moved = tensor.to(homes.get(id(tensor), devices[0]))
        if isinstance(tensor, nn.Parameter):
            moved = nn.Parameter(moved, requires_grad=tensor.requires_grad)
        torch.utils.swap_tensors(tensor, moved)
    for name, device in blocks.items():
        block = model.get_submodule(name)
        block.register_forward_pre_hook(partial(_come, device), with_kwargs=True)
        block.register_forward_hook(partial(_go, devices[0]))
    return model


def dealt(model: nn.Module, devices: Sequence[torch.device]) -> dict[str, torch.device]:
    """The device of each block, so that in their order all devices have about as many bytes.

    Blocks that share weights with others, or with what is in none, are on the first one with these.

    Raises:
        ModelError: there are fewer blocks than devices.
    """
    blocks = {name: model.get_submodule(name) for name in called_blocks(model)}
    if len(blocks) < len(devices):
        raise ModelError(
            f"model: {type(model).__name__} has {len(blocks)} blocks (members of a list of its "
            f"modules that hold linear layers), which cannot be dealt over {len(devices)} GPUs. "
            "Set `runner.gpus_per_actor` to fewer."
        )
    inside = Counter(id(one) for block in blocks.values() for one in set(_tensors(block)))
    outside = _outside(model, blocks)
    total = sum(weight.nbytes for weight in model.parameters())
    before = sum(weight.nbytes for weight in model.parameters() if id(weight) in outside)
    found: dict[str, torch.device] = {}
    for name, block in blocks.items():
        size = sum(weight.nbytes for weight in block.parameters())
        shares = any(inside[id(one)] > 1 or id(one) in outside for one in _tensors(block))
        middle = int(len(devices) * (before + size / 2) / total)
        found[name] = devices[0 if shares else min(middle, len(devices) - 1)]
        before += size
    return found


def weights_over(model: nn.Module, devices: Sequence[torch.device]) -> list[list[nn.Parameter]]:
    """The weights of a model that each device would have; none is moved, nor need they be there.

    Raises:
        ModelError: as of :func:`dealt`.
    """
    homes = _homes(model, dealt(model, devices)) if len(devices) > 1 else {}
    weights = list(model.parameters())
    return [[one for one in weights if homes.get(id(one), devices[0]) == d] for d in devices]


def called_blocks(model: nn.Module) -> list[str]:
    """Names of the blocks that are called, as lists themselves are not; in the model's order."""
    names = [name for name in dict.fromkeys(blocks_of(model).values()) if name]
    lists = nn.ModuleList, nn.ModuleDict
    return [name for name in names if not isinstance(model.get_submodule(name), lists)]


def device_of_tokens(model: nn.Module) -> torch.device:
    """Where a model is given tokens and gives logits: the device of what is in no block."""
    outside = _outside(model, {name: model.get_submodule(name) for name in called_blocks(model)})
    weights = list(model.parameters())
    return next((one for one in weights if id(one) in outside), weights[0]).device


def _homes(model: nn.Module, blocks: Mapping[str, torch.device]) -> dict[int, torch.device]:
    """The device of each weight and buffer that is in a block, by its id."""
    return {
        id(tensor): device
        for name, device in blocks.items()
        for tensor in _tensors(model.get_submodule(name))
    }


def _outside(model: nn.Module, blocks: Mapping[str, nn.Module]) -> set[int]:
    """Ids of weights and buffers that a module has which is in no block."""
    inside = {id(module) for block in blocks.values() for module in block.modules()}
    return {
        id(tensor)
        for module in model.modules()
        if id(module) not in inside
        for tensor in chain(module.parameters(recurse=False), module.buffers(recurse=False))
    }


def _tensors(module: nn.Module) -> list[Tensor]:
    """Weights and buffers, each once."""
    return [*module.parameters(), *module.buffers()]


def _come(
    device: torch.device, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any]:
    return _moved((args, kwargs), device)  # type: ignore[no-any-return]


def _go(device: torch.device, _block: nn.Module, _args: tuple[Any, ...], given: Any) -> Any:
    return _moved(given, device)


def _moved(values: Any, device: torch.device) -> Any:
    return tree_map(lambda one: one.to(device) if isinstance(one, Tensor) else one, values)
