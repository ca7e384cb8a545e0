"""Devices that are not there: tensors on the CPU which say that they are elsewhere.

``cpu:1`` and ``cpu:2`` are kinds of torch.device that no tensor has. Within :func:`pretended` a
tensor that is made or moved there says so, and an operation of tensors that are not all on one
device is refused, as CUDA refuses it: of the host's only those of no dimension may take part. What
is computed is what the CPU computes. Streams, memory of devices and their arithmetic it says
nothing of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    return_and_correct_aliasing,
)
from torch.utils._pytree import tree_leaves, tree_map

#: Two of them.
DEVICES = (torch.device("cpu", 1), torch.device("cpu", 2))
_HOST = torch.device("cpu")
#: What may read on one device and write on another.
_CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Elsewhere(Tensor):
    """A tensor that says it is on a device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[None]:
    """Within it the devices are there."""
    made, read = partial(_made, torch.tensor), partial(_read, torch.asarray)
    with patch.multiple(torch, tensor=made, asarray=read), _Moved():
        yield


def _made(tensor: Any, *args: Any, device: torch.device | None = None, **kwargs: Any) -> Tensor:
    """What torch makes of Python's numbers, on the host at first: there it asks nobody."""
    made: Tensor = tensor(*args, **kwargs)
    return made if device is None else made.to(device)


def _read(asarray: Any, *args: Any, **kwargs: Any) -> Tensor:
    """What safetensors makes of a file, which torch cannot while anyone looks on."""
    with _disable_current_modes():
        found: Tensor = asarray(*args, **kwargs)
        return found


class _Moved(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    taking = {one.device for one in given if isinstance(one, Elsewhere) or one.ndim}
    if len(taking) > 1 and func not in _CROSSING:
        raise RuntimeError(f"{func}: expected all tensors to be on one device, found {taking}")
    there = next((one.device for one in given if isinstance(one, Elsewhere)), _HOST)
    wanted = kwargs.get("device") or there
    if there == wanted == _HOST:
        return func(*args, **kwargs)
    if "device" in kwargs:
        kwargs = {**kwargs, "device": _HOST}
    inner = tree_map(lambda one: one.held if isinstance(one, Elsewhere) else one, (args, kwargs))
    found = func(*inner[0], **inner[1])
    if wanted == _HOST:
        return found
    found = tree_map(lambda one: Elsewhere(one, wanted) if isinstance(one, Tensor) else one, found)
    return return_and_correct_aliasing(func, args, kwargs, found)
