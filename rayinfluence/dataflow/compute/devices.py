"""Which devices of this machine a replica is over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rayinfluence.errors import ConfigError

#: What weights may take of the memory of devices, where factors, banks and activations are too.
_SHARE = 0.5


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
    return [torch.device("cuda", one) for one in range(gpus)]


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


def gpus_for(weight_bytes: int, sizes: Sequence[int]) -> int:
    """The first so many GPUs of which weights take half at most; all where that is too few.

    Args:
        weight_bytes: of a model.
        sizes: bytes that each GPU has.
    """
    enough = [n for n in range(1, len(sizes)) if weight_bytes <= _SHARE * sum(sizes[:n])]
    return enough[0] if enough else len(sizes)
