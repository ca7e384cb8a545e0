"""Printing what a command has to say, as it was asked for and as where it goes takes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TextIO

from rich.console import Console

from rayinfluence.display.as_json import json_text
from rayinfluence.display.coloured import print_coloured
from rayinfluence.display.plain import plain_lines
from rayinfluence.display.value import Shown

#: Where an object goes while standard output is another stream.
_KEPT: ContextVar[TextIO | None] = ContextVar("kept", default=None)


@contextmanager
def json_alone() -> Iterator[None]:
    """Standard output is for the object of :func:`show` alone.

    Whatever else is printed meanwhile, as by functions of the user's own, goes to standard error.
    """
    token = _KEPT.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _KEPT.reset(token)


def show(shown: Shown, as_json: bool = False) -> None:
    """Print to standard output: as one JSON object, in colours on a terminal, else in plain lines.

    Args:
        shown: what there is to say.
        as_json: whether a program reads it.
    """
    if as_json:
        (_KEPT.get() or sys.stdout).write(json_text(shown.values) + "\n")
        return
    console = Console()
    if console.is_terminal:
        print_coloured(shown.parts, console)
        return
    for line in plain_lines(shown.parts):
        sys.stdout.write(line + "\n")
