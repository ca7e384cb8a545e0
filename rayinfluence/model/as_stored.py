"""Weights that are those of the files: what transformers changes after it has read them is undone.

It calls each class's initialisation on all that was loaded, and expects it to leave that alone. Not
every class does: Mamba's scales a weight in place. Numbers of such a model are those of one that
nobody trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from rayinfluence.errors import ModelError
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.tensors import tensor_bytes

#: What transformers marks a tensor with that it has read, before it gives it to a module.
_READ = "_is_hf_initialized"
_NAMED = 2

#: A model, and what is said of its loading.
Loading = Callable[[], tuple[nn.Module, dict[str, Any]]]


def as_stored(path: str, loading: Loading) -> tuple[nn.Module, dict[str, Any]]:
    """A model whose weights are what was read of its files, in the model's dtype and layout.

    What was read is known by its digest at the moment when a module is given it: after renaming,
    stacking, dequantising and casts, and before anything else. A tensor at a time is in memory for
    that. Where the end differs the model is read a second time in place of the first, and what
    differed is kept on its way and put back.

    Args:
        path: the model's folder, to be named.
        loading: reads it; nothing may hold what it has given.

    Raises:
        ModelError: what was changed cannot be put back, by name.
    """
    with _given() as read:
        model, info = loading()
    if not read.digests and not info["missing_keys"]:
        raise ModelError(
            f"model: what was read of {path} cannot be told from what the model's class made of "
            "it, as this release of transformers gives weights to modules in a way that is not "
            "known. Install another release."
        )
    if wanted := set(_changed(model, read).values()):
        del model, info
        with _given(wanted) as read:
            model, info = loading()
        _put_back(model, _changed(model, read), read.kept)
        if left := _changed(model, read):
            names = " and ".join(sorted(left)[:_NAMED])
            raise ModelError(
                f"model: {len(left)} weights of {path} are others in the model than in its files, "
                f"such as {names}: the model's own class changes them while they are loaded, or "
                "holds as one what the files hold as two. Influence on another model than was "
                "trained means nothing: save the whole model again, with the config.json of these "
                "weights."
            )
    return model, info


class _Read:
    """What modules were given of files.

    Attributes:
        digests: by module, of each tensor under its name there.
        kept: by digest, copies of tensors.
    """

    def __init__(self) -> None:
        self.digests: WeakKeyDictionary[nn.Module, dict[str, str]] = WeakKeyDictionary()
        self.kept: dict[str, Tensor] = {}


@contextmanager
def _given(wanted: Collection[str] = ()) -> Iterator[_Read]:
    """Notes what modules are given, and keeps tensors whose digests are wanted."""
    read = _Read()

    def note(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or tensor.is_meta or not getattr(tensor, _READ, False):
            return
        given = read.digests.setdefault(module, {})
        if name in given:  # what comes later is not of the files
            return
        given[name] = found = _digest(tensor)
        if found in wanted:
            read.kept[found] = tensor.detach().clone()

    hooks = [
        register_module_parameter_registration_hook(note),
        register_module_buffer_registration_hook(note),
    ]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()


def _changed(model: nn.Module, read: _Read) -> dict[str, str]:
    """By name the digests of what was read, where the model holds something else."""
    return {
        f"{place}.{name}".lstrip("."): digest
        for place, module in model.named_modules()
        for name, digest in read.digests.get(module, {}).items()
        if _digest(getattr(module, name, None)) != digest
    }


def _put_back(model: nn.Module, changed: Mapping[str, str], kept: Mapping[str, Tensor]) -> None:
    """Give tensors their numbers back, where there still is a place for them."""
    for name, digest in changed.items():
        place, _, last = name.rpartition(".")
        own, value = getattr(model.get_submodule(place), last, None), kept.get(digest)
        if isinstance(own, Tensor) and value is not None and own.shape == value.shape:
            with torch.no_grad():
                own.copy_(value)


def _digest(tensor: Any) -> str:
    """Of a tensor's type, shape and numbers; of anything else none that a tensor has."""
    if not isinstance(tensor, Tensor):
        return ""
    about = f"{tensor.dtype} {list(tensor.shape)}".encode()
    return digest_bytes(about, tensor_bytes(tensor))
