"""Token heat: which tokens of a sequence carry its score.

By gradients ``token_scores[t]`` belongs to input position t, that is to the prediction of token t +
1, so the number is shown ON token t + 1: the token whose prediction moved the model. A sequence's
first token has none. By texts it is of token t itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = 8


@dataclass(frozen=True, slots=True)
class HeatedToken:
    """One token with the score of its prediction and that score's share of the largest, in steps.

    ``level`` runs from -LEVELS (lowers most) over 0 (nothing to show) to LEVELS (raises most).
    """

    text: str
    score: float | None
    level: int


def heated_tokens(
    texts: Sequence[str], scores: Sequence[float], ahead: int = 1
) -> list[HeatedToken]:
    """Shift the scores onto the tokens they are about and set them against the largest.

    Args:
        texts: of the tokens.
        scores: of as many positions.
        ahead: of its score a token is so many places.
    """
    shifted: list[float | None] = [None] * ahead
    shifted += [s if math.isfinite(s) else None for s in scores]
    shifted += [None] * (len(texts) - len(shifted))
    shifted = shifted[: len(texts)]
    largest = max((abs(score) for score in shifted if score is not None), default=0.0)
    return [
        HeatedToken(text, score, _level(score, largest))
        for text, score in zip(texts, shifted, strict=True)
    ]


def _level(score: float | None, largest: float) -> int:
    if score is None or largest == 0:
        return 0
    level = int(LEVELS * abs(score) / largest)
    return level if score > 0 else -level


def hottest(tokens: Sequence[HeatedToken], n: int) -> list[HeatedToken]:
    """The ``n`` tokens with the largest scores of either sign, hottest first."""
    scored = [token for token in tokens if token.score]
    return sorted(scored, key=lambda token: -abs(token.score or 0.0))[:n]


def hot_window(tokens: Sequence[HeatedToken], budget: int, line_cost: int = 1) -> tuple[int, int]:
    """The range of tokens around the hottest that fits a budget of characters.

    Args:
        tokens: the tokens of one sequence.
        budget: how many characters may be shown.
        line_cost: how many characters a newline counts for.

    Returns:
        Start and stop of the range. It grows evenly to both sides, and into the room that one side
        leaves unused; it holds at least one token if there is any.
    """
    if not tokens:
        return 0, 0
    costs = [len(token.text) + (line_cost - 1) * token.text.count("\n") for token in tokens]
    centre = max(range(len(tokens)), key=lambda index: abs(tokens[index].score or 0.0))
    start, stop = centre, centre + 1
    room = budget - costs[centre]
    before = after = 0
    while True:
        left = start > 0 and costs[start - 1] <= room
        right = stop < len(tokens) and costs[stop] <= room
        if left and (before <= after or not right):
            start -= 1
            before += costs[start]
            room -= costs[start]
        elif right:
            after += costs[stop]
            room -= costs[stop]
            stop += 1
        else:
            return start, stop
