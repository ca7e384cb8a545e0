"""How likely the model holds what a query asks for, by the token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def n_counted(query: Mapping[str, Any]) -> int:
    """How many tokens of the completion count."""
    counts = query.get("token_counts")
    return sum(counts) if counts else query.get("n_completion_tokens") or 0


def per_token_probability(query: Mapping[str, Any]) -> float | None:
    """The geometric mean of the probabilities of tokens that count, where the row has it."""
    total, tokens = query.get("log_probability"), n_counted(query)
    if total is None or not tokens or not math.isfinite(total):
        return None
    return math.exp(min(total / tokens, 0.0))
