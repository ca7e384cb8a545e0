"""Which devices of this machine a replica is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from rayinfluence.errors import ConfigError
from rayinfluence.model.placement import called_blocks, weights_over
from rayinfluence.text import in_bytes

#: What weights may take of the memory of devices, where factors, banks and activations are too.
_SHARE = 0.5
#: More are in no machine that is sold as one.
_GPUS_OF_A_NODE = 16


def devices_here(device: str, gpus: int | None, model: nn.Module) -> list[torch.device]:
    """The devices of a replica in this process: some of the CUDA devices that it sees, or the CPU.

    Args:
        device: cuda or cpu.
        gpus: how many; None is as few as have room for the weights.
        model: whose weights these are.
    """
    if device != "cuda":
        return [torch.device(device)]
    if gpus is None:
        sizes = [torch.cuda.mem_get_info(one)[1] for one in range(torch.cuda.device_count())]
        gpus = gpus_for(sum(weight.nbytes for weight in model.parameters()), sizes)
    return so_many_gpus(gpus)


def refuse_fewer_gpus(gpus: int | None, where: str) -> None:
    """Refuse a number of GPUs that this process does not see.

    Args:
        gpus: that a replica is to be over; None is any number.
        where: it runs.

    Raises:
        ConfigError: with both numbers.
    """
    if gpus is not None and gpus > (there := torch.cuda.device_count()):
        raise ConfigError(
            f"runner.gpus_per_actor: {gpus}, and {where} has {there} "
            f"CUDA device{'s' * (there != 1)} that can be seen. Set no more than that."
        )


def refuse_too_small(model: nn.Module, devices: Sequence[torch.device]) -> None:
    """Refuse CUDA devices of which one has less memory than the weights that would lie on it.

    Args:
        model: that would be dealt over them.
        devices: of a replica.

    Raises:
        ConfigError: with both numbers, and over how many the weights would go.
        ModelError: it cannot be dealt over them.
    """
    if devices[0].type != "cuda":
        return
    least = min(torch.cuda.mem_get_info(device)[1] for device in devices)
    most = _most(model, devices)
    if most <= least:
        return
    n = fewest_gpus(model, lambda n: _most(model, so_many_gpus(n)) <= _SHARE * least)
    remedy = (
        f"Set `runner.gpus_per_actor: {n}`, on nodes that have so many"
        if n
        else "However its blocks are dealt, one GPU has too many of them. Take larger GPUs"
    )
    raise ConfigError(
        f"model: {in_bytes(most)} of its weights would lie on one GPU of {in_bytes(least)}, with "
        f"{len(devices)} GPU{'s' * (len(devices) > 1)} for a replica. {remedy}, or a narrower "
        "`dtype`."
    )


def fewest_gpus(model: nn.Module, fits: Callable[[int], bool]) -> int | None:
    """The fewest GPUs of a node over which a model fits; None where it does over none.

    Args:
        model: whose blocks are dealt: over no more GPUs than it has blocks.
        fits: whether it does over so many.
    """
    most = min(_GPUS_OF_A_NODE, max(1, len(called_blocks(model))))
    return next((n for n in range(1, most + 1) if fits(n)), None)


def so_many_gpus(n: int) -> list[torch.device]:
    """The first so many, whether they are there or not."""
    return [torch.device("cuda", one) for one in range(n)]


def _most(model: nn.Module, devices: Sequence[torch.device]) -> int:
    """Bytes of weights on the fullest of some devices."""
    return max(sum(weight.nbytes for weight in here) for here in weights_over(model, devices))


def gpus_for(weight_bytes: int, sizes: Sequence[int]) -> int:
    """The first so many GPUs of which weights take half at most; all where that is too few.

    Args:
        weight_bytes: of a model.
        sizes: bytes that each GPU has.
    """
    enough = [n for n in range(1, len(sizes)) if weight_bytes <= _SHARE * sum(sizes[:n])]
    return enough[0] if enough else len(sizes)
