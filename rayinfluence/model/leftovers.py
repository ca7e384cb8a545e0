"""Tensors of old checkpoints that today's code computes: masks, positions, angles.

A name alone proves nothing (a bias of an attention is also called so), so their numbers have to be
those that the model makes itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rayinfluence.model.weight_files import weight_files

#: What masked places are given before a softmax, at most.
_MASKED = -1e3
#: Of angles that were rounded to bfloat16.
_ROUNDING = 1e-2
#: What float16 cannot hold.
_SMALL = 1e-5
#: Last parts of names of such tensors; no others are read.
_COMPUTED = ("bias", "causal_mask", "masked_bias", "position_ids", "inv_freq")


def computed(path: str, names: Collection[str]) -> set[str]:
    """Of the tensors of a checkpoint that a model has no place for, those that it computes.

    Args:
        path: the folder with the safetensors.
        names: of those tensors.
    """
    names = {name for name in names if name.rpartition(".")[2] in _COMPUTED}
    there = _tensors(path, lambda name: name in names) if names else {}
    return {name for name, tensor in there.items() if _is_computed(name, tensor)}


def other_angles(path: str, model: nn.Module) -> set[str]:
    """Tensors of rotary angles in a checkpoint that are not those of the model that was loaded.

    The configuration makes them, so it is not the one that the weights were trained with.
    """
    made = [buffer for name, buffer in model.named_buffers() if name.endswith("inv_freq")]
    there = _tensors(path, lambda name: bool(made) and name.endswith(".inv_freq"))
    return {n for n, tensor in there.items() if not any(_is_same(tensor, own) for own in made)}


def _tensors(path: str, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in weight_files(path):
        with safe_open(Path(path) / file, "pt") as tensors:
            names = filter(wanted, tensors.keys())
            found |= {name: tensors.get_tensor(name) for name in names}
    return found


def _is_computed(name: str, tensor: Tensor) -> bool:
    kind = name.rpartition(".")[2]
    if kind in ("bias", "causal_mask"):
        return _is_triangle(tensor)
    if kind == "masked_bias":
        return tensor.numel() == 1 and bool(tensor <= _MASKED)
    if kind == "position_ids":
        row = tensor.reshape(-1, tensor.shape[-1])[0]
        return torch.equal(row, torch.arange(len(row)).to(row.dtype))
    # Of angles, :func:`other_angles` judges.
    return kind == "inv_freq"


def _is_triangle(tensor: Tensor) -> bool:
    """Whether it says of two places which is earlier, and nothing else."""
    if tensor.ndim < 2 or tensor.shape[-1] != tensor.shape[-2] or len(tensor) != 1:
        return False
    mask = tensor.reshape(tensor.shape[-2:])
    lower = torch.ones_like(mask, dtype=torch.bool).tril()
    seen, hidden = mask[lower].unique(), mask[~lower].unique()
    return len(seen) == 1 and len(hidden) <= 1 and not torch.equal(seen, hidden)


def _is_same(tensor: Tensor, made: Tensor) -> bool:
    return tensor.shape == made.shape and torch.allclose(
        tensor.double(), made.double().cpu(), rtol=_ROUNDING, atol=_SMALL
    )
