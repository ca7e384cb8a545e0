"""Text and numbers as people read them; shared by the terminal and the page."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from rayinfluence.text import visible

#: Of a score that depends on the batch it is computed in.
SUSPECT = "suspect: another score in another batch"
#: Of a change that is no prediction; its number would be read as one.
#: In the place of a question.
BY_ITSELF = "each sequence by itself"
BEYOND = "beyond the linear range: no prediction"


def one_line(text: str) -> str:
    """The visible text with every run of white space collapsed to one space."""
    return " ".join(visible(text).split())


def shorten(text: str, width: int, *, keep: str = "start", size: Callable[[str], int] = len) -> str:
    """One line of at most some width, cut between what is drawn as one character.

    Args:
        text: of any length.
        width: the largest size of the line.
        keep: which end survives.
        size: how wide a text is.
    """
    line = one_line(text)
    if size(line) <= width:
        return line
    widths = accumulate(map(size, line if keep == "start" else reversed(line)))
    cut = sum(1 for taken in widths if taken < width)
    if keep == "end":
        cut = len(line) - cut
        while cut < len(line) and _belongs(line[cut - 1], line[cut]):
            cut += 1
        return f"…{line[cut:]}"
    while cut > 0 and _belongs(line[cut - 1], line[cut]):
        cut -= 1
    return f"{line[:cut]}…"


def isolates(text: str) -> tuple[str, str]:
    """What to put before and after a text on a line of others, whose order it would change.

    Unicode's isolates, where any of it runs from right to left.
    """
    return ("\u2068", "\u2069") if any(map(_runs_left, text)) else ("", "")


def drawn_together(texts: Sequence[str]) -> bool:
    """Whether a character of one of some texts in a row is drawn with one of the next."""
    return any(
        _belongs(left[-1], right[0]) or (_joins_letters(left[-1]) and _joins_letters(right[0]))
        for left, right in pairwise(filter(None, texts))
    )


def _belongs(left: str, right: str) -> bool:
    """Whether a character is a mark of the one before it, or joined to it."""
    joiners = ("\u200c", "\u200d")
    # Skins' colours are symbols that modify.
    is_mark = unicodedata.category(right).startswith("M") or "\U0001f3fb" <= right <= "\U0001f3ff"
    return is_mark or left in joiners or right in joiners


def _joins_letters(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM" and _runs_left(character)


def _runs_left(character: str) -> bool:
    return unicodedata.bidirectional(character) in ("R", "AL")


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


def measured(value: float, error: float | None = None) -> str:
    """A number with its sign and, where it is a mean over seeds, give or take its error."""
    return signed(value) if error is None else f"{signed(value)} ± {signed(error).lstrip('+')}"


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


def prediction(
    delta_nats: float | None, beyond: bool | None, odds: bool = False, error: float | None = None
) -> str:
    """A predicted change of a log-probability, in nats and in words, if it is a prediction.

    Args:
        delta_nats: the change; None where there is none.
        beyond: whether it is no prediction.
        odds: whether it is one of a difference of log-probabilities.
        error: of a mean over seeds, the standard error.
    """
    if delta_nats is None:
        return ""
    if beyond:
        return BEYOND
    if abs(delta_nats) < 0.005:
        return f"{measured(delta_nats, error)} nats"
    times = f"{math.exp(delta_nats):.2f}"
    words = f"odds times {times}" if odds else f"{times} times as likely"
    return f"{measured(delta_nats, error)} nats, {words}"


def count(value: Any) -> str:
    """An integer with separators; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def things(n: int, one: str, many: str | None = None) -> str:
    """A number of things, such as ``1 query`` and ``1,200 queries``."""
    return f"{count(n)} {one if n == 1 else many or f'{one}s'}"


def pairs(values: Mapping[str, Any] | None) -> str:
    """Names and values that are known, on one line."""
    known = {key: value for key, value in (values or {}).items() if value is not None}
    return ", ".join(f"{key} {value}" for key, value in known.items())
