"""Passes that give the same bytes again, on devices that may add in any order.

The backward pass of fused attention on CUDA adds gradients as they come unless torch is told
otherwise; measured on an H200, deterministic algorithms end that at no cost that shows
(docs/benchmarks.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: torch's stubs do not know what is in it.
_SETTINGS: Any = torch.utils.deterministic
#: Kinds of device that add in any order.
_ANY_ORDER = frozenset({"cuda"})


def in_any_order(device: torch.device) -> bool:
    """Whether a device adds in any order unless it is told otherwise."""
    return device.type in _ANY_ORDER


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Sums are added in one order meanwhile; torch's own settings come back afterwards."""
    if not in_any_order(device):
        yield
        return
    # cuBLAS asks for it before its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    on = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = _SETTINGS.fill_uninitialized_memory
    # What only warns leaves fused attention as it is.
    torch.use_deterministic_algorithms(True)
    _SETTINGS.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(on, warn_only=only_warns)
        _SETTINGS.fill_uninitialized_memory = filled


def missing_order(run: Callable[[], object], device: torch.device) -> str | None:
    """What torch says of an operation that has no fixed order, or None where all of them have.

    Args:
        run: a pass over little.
        device: of the pass.
    """
    try:
        with repeatable(device):
            run()
    except RuntimeError as error:
        if "deterministic" in str(error):
            return str(error).splitlines()[0]
        raise
    return None
