"""Token heat: which tokens of a sequence carry its score.

By gradients ``token_scores[t]`` belongs to input position t, that is to the prediction of token t +
1, so the number is shown ON token t + 1: the token whose prediction moved the model. A sequence's
first token has none. By texts it is of token t itself.

Tokens that are parts of one character show nothing by themselves; they are taken as one, with the
sum of their scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

LEVELS = 8


@dataclass(frozen=True, slots=True)
class HeatedToken:
    """One token with the score of its prediction and that score's share of the largest, in steps.

    ``level`` runs from -LEVELS (lowers most) over 0 (nothing to show) to LEVELS (raises most).
    ``n_tokens`` is more than one where several make one character.
    """

    text: str
    score: float | None
    level: int
    n_tokens: int = 1


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
    whole = list(_whole_characters(texts, shifted[: len(texts)]))
    largest = max((abs(score) for _, score, _ in whole if score is not None), default=0.0)
    return [HeatedToken(text, score, _level(score, largest), n) for text, score, n in whole]


def _whole_characters(
    texts: Sequence[str], scores: Sequence[float | None]
) -> Iterator[tuple[str, float | None, int]]:
    """Texts with scores and numbers of tokens; those without a text go with the next that has."""
    total, n = None, 0
    for text, score in zip(texts, scores, strict=True):
        n += 1
        if score is not None:
            total = score if total is None else total + score
        if text:
            yield text, total, n
            total, n = None, 0
    if n:
        yield "", total, n


def _level(score: float | None, largest: float) -> int:
    if score is None or largest == 0:
        return 0
    level = int(LEVELS * abs(score) / largest)
    return level if score > 0 else -level


def hottest(tokens: Sequence[HeatedToken], n: int) -> list[HeatedToken]:
    """The ``n`` tokens with the largest scores of either sign, hottest first."""
    scored = [token for token in tokens if token.score]
    return sorted(scored, key=lambda token: -abs(token.score or 0.0))[:n]


def hot_window(
    tokens: Sequence[HeatedToken],
    budget: int,
    line_cost: int = 1,
    size: Callable[[str], int] = len,
) -> tuple[int, int]:
    """The range of tokens around the hottest that fits a budget of characters.

    Args:
        tokens: the tokens of one sequence.
        budget: how many characters may be shown.
        line_cost: how many characters a newline counts for.
        size: how many characters a text counts for.

    Returns:
        Start and stop of the range. It grows evenly to both sides, and into the room that one side
        leaves unused; it holds at least one token if there is any.
    """
    if not tokens:
        return 0, 0
    costs = [size(token.text) + (line_cost - 1) * token.text.count("\n") for token in tokens]
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
