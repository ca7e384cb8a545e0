"""Lines that commands print."""

from __future__ import annotations

from rich.console import Console

from rayinfluence.text import visible, without_credentials


def say(text: str, *, error: bool = False) -> None:
    """Print a line or lines; what others wrote in them is neither markup nor commands."""
    text = without_credentials(text)
    console = Console(stderr=error, soft_wrap=True)
    console.print(visible(text), markup=False, highlight=False)
