"""Guests leave a process as they found it: its random numbers and its environment.

Libraries change both when they are first imported (rich draws a number, models of transformers
leave a variable for torch's compiler, Ray one for its children), and a model's own code may. Their
filters of warnings and their loggers stay, as they would if the caller had imported them.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def same_draws() -> Iterator[None]:
    """The generators that Python, numpy and torch share go on where they were before.

    For short pieces of work: what another thread draws meanwhile is drawn again.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    python_state = random.getstate()
    numpy_state = numpy and numpy.random.get_state()
    torch_state = torch and torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        if torch is not None:
            torch.set_rng_state(torch_state)


@contextmanager
def as_found() -> Iterator[None]:
    """Variables of the environment come back as well; for short pieces of work, such as imports."""
    found = dict(os.environ)
    try:
        with same_draws():
            yield
    finally:
        for name in os.environ.keys() - found.keys():
            del os.environ[name]
        os.environ.update({k: v for k, v in found.items() if os.environ.get(k) != v})
