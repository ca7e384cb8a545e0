"""Printing what a command has to say, as it was asked for and as where it goes takes it."""

from __future__ import annotations

import sys

from rich.console import Console

from rayinfluence.display.as_json import json_text
from rayinfluence.display.coloured import print_coloured
from rayinfluence.display.plain import plain_lines
from rayinfluence.display.value import Shown


def show(shown: Shown, as_json: bool = False) -> None:
    """Print to standard output: as one JSON object, in colours on a terminal, else in plain lines.

    Args:
        shown: what there is to say.
        as_json: whether a program reads it.
    """
    if as_json:
        sys.stdout.write(json_text(shown.values) + "\n")
        return
    console = Console()
    if console.is_terminal:
        print_coloured(shown.parts, console)
        return
    for line in plain_lines(shown.parts):
        sys.stdout.write(line + "\n")
