"""Text and numbers as people read them; shared by the terminal and the page."""

from __future__ import annotations

import math
from typing import Any

from rayinfluence.text import visible

#: Of a score that depends on the batch it is computed in.
SUSPECT = "suspect: another score in another batch"
#: Of a change that is no prediction; its number would be read as one.
BEYOND = "beyond the linear range: no prediction"


def one_line(text: str) -> str:
    """The visible text with every run of white space collapsed to one space."""
    return " ".join(visible(text).split())


def shorten(text: str, width: int, *, keep: str = "start") -> str:
    """One line of at most ``width`` characters; ``keep`` says which end survives."""
    line = one_line(text)
    if len(line) <= width:
        return line
    return f"…{line[1 - width :]}" if keep == "end" else f"{line[: width - 1]}…"


def signed(value: float) -> str:
    """A number with its sign, such as ``+12,345``, ``-0.0123`` or ``+1.2e-7``."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e6:
        decimals = max(0, 2 - math.floor(math.log10(size)))
        return f"{value:+,.{decimals}f}"
    mantissa, exponent = f"{value:+.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(probability: float) -> str:
    """A probability as a percentage that is honest about values near 0 and 1."""
    if not 0 <= probability <= 1:
        return "n/a"
    if 0 < probability < 0.001:
        mantissa, exponent = f"{probability:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if probability < 0.01 or 0.99 < probability < 1:
        return f"{probability:.1%}"
    return f"{probability:.0%}"


def prediction(delta_nats: float | None, beyond: bool | None) -> str:
    """A predicted change of a log-probability, in nats and in words, if it is a prediction."""
    if delta_nats is None:
        return ""
    if beyond:
        return BEYOND
    words = f", {math.exp(delta_nats):.2f} times as likely" if abs(delta_nats) >= 0.005 else ""
    return f"{signed(delta_nats)} nats{words}"


def count(value: Any) -> str:
    """An integer with separators; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def per_token_probability(query: dict[str, Any]) -> float | None:
    """The geometric mean of the completion's token probabilities, where the manifest allows it."""
    total, tokens = query.get("log_probability"), query.get("n_completion_tokens")
    if total is None or not tokens or not math.isfinite(total):
        return None
    return math.exp(min(total / tokens, 0.0))
