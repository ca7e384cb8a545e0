"""What a query's hits begin with: the strongest one in words, as far as it is a prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rayinfluence.report.asked import raised
from rayinfluence.report.markup import Html, tag
from rayinfluence.report.text import shorten
from rayinfluence.storage.results import Survivor

_NAME = 80
#: Below this change of a factor it is said to be next to nothing: 1.00 times says less.
_LITTLE = 0.005


def lead(first: Survivor | None, query: Mapping[str, Any], odds: bool) -> Html:
    """A sentence on the first proponent; empty where there is none or nothing is predicted.

    Args:
        first: the strongest proponent.
        query: its row.
        odds: whether a change is one of a difference of log-probabilities.
    """
    if first is None or first.delta_nats is None:
        return Html()
    name = shorten(first.document_id or f"sequence {first.sequence_id}", _NAME)
    source = [" (", tag("bdi", shorten(first.source, _NAME)), ")"] if first.source else []
    said = (
        f" lies beyond the linear range: that it raises {raised(query)} is estimated, by how much "
        "is not."
        if first.beyond_linear
        else f": seen once more in training, {_becomes(first.delta_nats, odds)}, to first order."
    )
    return tag("p", "The strongest, ", tag("bdi", name), *source, said, class_="lead")


def _becomes(delta_nats: float, odds: bool) -> str:
    times = math.exp(delta_nats)
    what = "the odds of what is asked for" if odds else "the completion"
    if abs(times - 1) < _LITTLE:
        return f"{what} would hardly change (by less than half a percent)"
    return f"{what} would become {times:.2f} times {'what they are' if odds else 'as likely'}"
