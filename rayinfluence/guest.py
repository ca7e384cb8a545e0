"""Guests leave a process as they found it, and are not changed by how it is set up meanwhile.

Libraries change random numbers and the environment when they are first imported (rich draws a
number, models of transformers leave a variable for torch's compiler, Ray one for its children).
Their filters of warnings and their loggers stay, as they would if the caller had imported them,
but a level that the caller has given one of these before.
Other threads of the caller go on meanwhile: what is theirs is left alone, and where that cannot be
told apart, the time in which it matters is short.
"""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

#: What imports are known to set. Any other variable that changes meanwhile is another thread's.
_VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "RAY_CLIENT_MODE", "RAY_AUTH_MODE")
#: Libraries that set levels of their loggers when they are imported.
_SET_LEVELS = ("ray", "torch", "transformers")
#: Draws a number of Python's when it is imported; no other library that is imported here does.
_DRAWS = "rich.console"
#: Devices on which a caller may have asked for other dtypes than those of a run.
_DEVICES = ("cpu", "cuda")


@contextmanager
def same_python_draws() -> Iterator[None]:
    """Python's shared generator goes on where it was; what another thread draws is drawn again."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def same_draws() -> Iterator[None]:
    """The generators that Python, numpy and torch share go on where they were before.

    For a few calls of a model: what another thread draws meanwhile is drawn again.
    """
    restore = saved_draws()
    try:
        yield
    finally:
        restore()


def saved_draws() -> Callable[[], None]:
    """What puts these generators back to where they are now."""
    # Another thread may be importing a library, and what is not there yet draws nothing.
    every = [
        _saved(random, "getstate", "setstate"),
        _saved(getattr(sys.modules.get("numpy"), "random", None), "get_state", "set_state"),
        _saved(sys.modules.get("torch"), "get_rng_state", "set_rng_state"),
    ]

    def restore() -> None:
        for one in every:
            one()

    return restore


def _saved(library: Any, getter: str, setter: str) -> Callable[[], None]:
    """What puts a library's generator back to where it is now."""
    get, put = getattr(library, getter, None), getattr(library, setter, None)
    if get is None or put is None:
        return lambda: None
    state = get()
    return lambda: put(state)


@contextmanager
def same_place() -> Iterator[None]:
    """What a function of the user's own leaves behind in this process decides nothing after it.

    The working directory, torch's threads and its default dtype are what they were before.
    """
    import torch

    folder = Path.cwd()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


@contextmanager
def as_found() -> Iterator[None]:
    """Undo what imports do: to variables and levels that they are known to set, and to draws."""
    found = {name: os.environ.get(name) for name in _VARIABLES}
    levels = {
        logger: logger.level
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger)
        and logger.level != logging.NOTSET
        and name.partition(".")[0] in _SET_LEVELS
    }
    state, drawn = random.getstate(), _DRAWS in sys.modules
    try:
        yield
    finally:
        if not drawn and _DRAWS in sys.modules:
            random.setstate(state)
        for logger, level in levels.items():
            logger.setLevel(level)
        for name, value in found.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Compute as the configuration says, whatever the caller's thread is in the middle of.

    Autocast would compute in another dtype than the manifest's, and tensors that are made in
    inference mode have no gradients.
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in _DEVICES:
            # Only where it is on: to switch it off on a device that is not there warns.
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def stepwise(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Each step of an iterator in our own arithmetic, and the caller's between them."""
    with own_arithmetic():
        steps = iter(make())
    end = object()
    while True:
        with own_arithmetic():
            step = next(steps, end)
        if step is end:
            return
        yield step
