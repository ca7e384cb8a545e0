"""What a survivor's score is made of: flags computed from token scores and token sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

#: Grosse et al. 2023, appendix: above this, one token carries the score and the sequence is
#: suspect.
SPURIOUS_RATIO = 2 / 3
#: Two sequences are near-duplicates when this share of their token 5-grams is common (Jaccard
#: index).
NEAR_DUPLICATE_SHARE = 0.8
_SHINGLE = 5


def is_spurious(token_scores: ArrayLike) -> bool:
    """Whether ||a||_2 / ||a||_1 > 2/3 over token scores.

    Nearly all of the influence is at one token.
    """
    scores = np.abs(np.asarray(token_scores, dtype=np.float64))
    total = scores.sum()
    return bool(total > 0 and np.sqrt((scores**2).sum()) / total > SPURIOUS_RATIO)


def near_duplicates(sequences: Sequence[Sequence[int]]) -> list[int | None]:
    """For each sequence, the first earlier one that it nearly repeats, or None.

    Args:
        sequences: token ids, best-ranked first; so the answer points to the best-ranked of its
            kind.

    Returns:
        Positions in ``sequences``.
    """
    shingles = [
        {tuple(tokens[i : i + _SHINGLE]) for i in range(max(1, len(tokens) - _SHINGLE + 1))}
        for tokens in sequences
    ]
    answer: list[int | None] = []
    for position, ours in enumerate(shingles):
        answer.append(
            next(
                (
                    earlier
                    for earlier in range(position)
                    if answer[earlier] is None
                    and len(ours & shingles[earlier])
                    >= NEAR_DUPLICATE_SHARE * len(ours | shingles[earlier])
                ),
                None,
            )
        )
    return answer
