"""Handles: things that the driver names and workers hold.

A job travels with handles of what is large (factors, bases, banks); who needs one gets it. How it
comes to a worker is the runner's affair: read where it is needed, or once per node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, tensor_names

T_co = TypeVar("T_co", covariant=True)


class Handle(Protocol[T_co]):
    """Something that is elsewhere."""

    def get(self) -> T_co:
        """The thing itself; not to be written to."""


@dataclass(frozen=True)
class Deferred:
    """What is made, or read, by whoever needs it."""

    function: Callable[[Any], Any]
    item: Any

    def get(self) -> Any:
        """Make it."""
        return self.function(self.item)


@dataclass(frozen=True)
class Stored:
    """Some tensors of one object: those whose names begin with one of these."""

    store: Store
    key: str
    prefix: str | tuple[str, ...] = ""


def read_stored(item: Stored) -> SharedTensors:
    """The tensors, each checked.

    Raises:
        DamagedError: the object is cut short or altered.
    """
    names = [n for n in tensor_names(item.store, item.key) if n.startswith(item.prefix)]
    return SharedTensors(read_tensors(item.store, item.key, names)[0])
