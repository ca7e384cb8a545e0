"""What a survivor's score is made of, and whether it holds: from token scores and tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: With fewer predictions a score has no room to spread, and nothing is said of how it does.
_LEAST_PREDICTIONS = 4
#: A score that moves by more than this share of itself when it is computed among other sequences is
#: one of the numerics, not of the model.
REPRODUCES_WITHIN = 0.1
#: Two sequences are near-duplicates when this share of their token 5-grams is common (Jaccard
#: index).
NEAR_DUPLICATE_SHARE = 0.8
_SHINGLE = 5


@dataclass(frozen=True)
class Carrier:
    """How a sequence's score is spread over its tokens.

    Attributes:
        concentration: 0 where all predictions have scores of one size, 1 where a single one has all
            of it, whatever their number; None for fewer than four predictions, or a score of zero.
        position: of the token whose prediction outweighs all others together, or None.
        in_completion: whether that token is one of the query's completion; None without one.
    """

    concentration: float | None
    position: int | None
    in_completion: bool | None


def carrier(
    token_scores: ArrayLike,
    tokens: Sequence[int],
    texts: Sequence[str],
    completion: Sequence[int],
    completion_texts: Sequence[str],
    ahead: int = 1,
) -> Carrier:
    """Which token carries a score, and whether the completion has it too.

    ||a||_2 / ||a||_1 of n scores lies between 1 / sqrt(n) and 1, so that bare it says something
    else for each n; it is put on the scale from the one to the other (Hoyer 2004).

    Args:
        token_scores: entry t is about token t + ``ahead``; what is about none does not count.
        tokens: of the sequence.
        texts: of those.
        completion: tokens of the query's completion.
        completion_texts: of those. A token is the same with and without white space around it.
        ahead: 1 where scores are of predictions, 0 where they are of the tokens themselves.
    """
    sizes = np.abs(np.asarray(token_scores, dtype=np.float64))
    sizes = sizes[: len(sizes) - ahead]
    total = sizes.sum()
    if len(sizes) < _LEAST_PREDICTIONS or not total > 0:
        return Carrier(None, None, None)
    shares = sizes / total
    root = math.sqrt(len(sizes))
    spread = (root * math.sqrt((shares**2).sum()) - 1) / (root - 1)
    concentration = min(max(spread, 0.0), 1.0)
    largest = int(np.argmax(shares))
    if not shares[largest] > 0.5:
        return Carrier(concentration, None, None)
    position = largest + ahead
    word = texts[position].strip()
    words = {text.strip() for text in completion_texts} - {""}
    return Carrier(concentration, position, tokens[position] in completion or word in words)


def reproduces(scores: ArrayLike, again: ArrayLike) -> NDArray[np.bool_]:
    """Whether scores are those of the scan when they are computed in batches of other shapes."""
    wanted = np.asarray(scores, dtype=np.float64)
    within: NDArray[np.bool_] = np.abs(np.asarray(again) - wanted) <= (
        REPRODUCES_WITHIN * np.abs(wanted)
    )
    return within


def shingles(tokens: Sequence[int]) -> frozenset[tuple[int, ...]]:
    """The token 5-grams of a sequence; all of a shorter one."""
    n = max(1, len(tokens) - _SHINGLE + 1)
    return frozenset(tuple(tokens[i : i + _SHINGLE]) for i in range(n))


def near_duplicates(of_each: Sequence[frozenset[tuple[int, ...]]]) -> list[int | None]:
    """For each sequence, the first earlier one that it nearly repeats, or None.

    Args:
        of_each: shingles of sequences, best-ranked first; so the answer points to the best-ranked
            of its kind.

    Returns:
        Positions in ``of_each``.
    """
    answer: list[int | None] = []
    # By shingle, the sequences that repeat none and have it.
    having: dict[tuple[int, ...], list[int]] = {}
    for position, ours in enumerate(of_each):
        common = Counter(earlier for shingle in ours for earlier in having.get(shingle, ()))
        near = [
            earlier
            for earlier, n in common.items()
            if n >= NEAR_DUPLICATE_SHARE * (len(ours) + len(of_each[earlier]) - n)
        ]
        answer.append(min(near, default=None))
        if not near:
            for shingle in ours:
                having.setdefault(shingle, []).append(position)
    return answer
