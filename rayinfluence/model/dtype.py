"""The dtype that a model is run in, of which some keep a few parameters in another."""

from __future__ import annotations

import torch
from torch import nn

#: What weights are loaded in; others (numbers of eight bits) are dequantised where they are used.
_RUN_IN = (torch.float64, torch.float32, torch.bfloat16)


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of most of a model's parameters, by entries; the first may well have another."""
    entries: dict[torch.dtype, int] = {}
    for weight in model.parameters():
        entries[weight.dtype] = entries.get(weight.dtype, 0) + weight.numel()
    among = [dtype for dtype in entries if dtype in _RUN_IN] or list(entries)
    return max(among, key=lambda dtype: entries[dtype])


def named(dtype: torch.dtype) -> str:
    """As a configuration names it: float32."""
    return str(dtype).removeprefix("torch.")
