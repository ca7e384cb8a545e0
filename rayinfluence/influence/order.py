"""What of a sentence has to be there, and in which order, for it to have influence.

The parts are those of Grosse et al. 2023, figures 24 and 25, and one more: the beginning of each
reversed sentence, up to what the query asks for. A reversed sentence has that string in it, and a
string that is there has influence whatever stands after it; what the order leaves of the relation
is what the whole has more than its beginning.

Q query.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from rayinfluence.influence.intervals import draws, percentiles

#: In the words of the query.
FORWARD = "forward"
TRAINED = "other trained words"
HELD_OUT = "held-out words"
REMOVED = "completion removed"
OTHER_OBJECT = "another object"
OTHER_SUBJECT = "another subject"
OTHER_RELATION = "another relation"
UNRELATED = "unrelated"
REVERSED = "reversed"
#: Of a reversed sentence; a part of its own in what is scored, and given with it in a file.
BEGINNING = "its beginning"
#: The one without the other.
BEYOND = "beyond its beginning"
#: The same in another language, and beside each such text one in that language that has the same
#: strings and says something else, or that says it of others: what is alike whatever is said.
LANGUAGE = "another language"
CONTROL = "its control"
BEYOND_CONTROL = "beyond its control"

#: Parts that are given in pairs, by the first of each, and what the first has more.
PAIRS = {REVERSED: (BEGINNING, BEYOND), LANGUAGE: (CONTROL, BEYOND_CONTROL)}

#: Parts that a file may have beside those in pairs.
PARTS = (
    FORWARD,
    TRAINED,
    HELD_OUT,
    REMOVED,
    OTHER_OBJECT,
    OTHER_SUBJECT,
    OTHER_RELATION,
    UNRELATED,
)

#: Ratios of sums that are drawn again are told where so few draws have no positive divisor.
_MOST_WITHOUT = 0.01


def share(
    part_Q: NDArray[np.float64], forward_Q: NDArray[np.float64], seed: int = 0
) -> tuple[float, float | None, float | None, int] | None:
    """What a part has of the forward sentence's influence: the ratio of the sums over queries.

    A mean of the ratios of each would be of those queries that have next to no influence forward.

    Args:
        part_Q: of each query; NaN where it has no such part.
        forward_Q: of the same queries.
        seed: of the draws of queries, each with both.

    Returns:
        The ratio, the ends of its interval, and of how many queries it is. No ends where there is
        one query, or where queries can be drawn whose forward sentences have no influence; None
        where all of them together have none.
    """
    both = np.isfinite(part_Q) & np.isfinite(forward_Q)
    n = int(both.sum())
    pairs = np.array([part_Q[both], forward_Q[both]])
    if not n or pairs[1].sum() <= 0:
        return None
    ratio = float(pairs[0].sum() / pairs[1].sum())
    if n == 1:
        return ratio, None, None, n
    part_B, forward_B = draws(pairs, seed)
    there_B = forward_B > 0
    if (~there_B).mean() > _MOST_WITHOUT:
        return ratio, None, None, n
    return ratio, *percentiles(part_B[there_B] / forward_B[there_B]), n


def sign_test(
    more_Q: NDArray[np.float64], less_Q: NDArray[np.float64]
) -> tuple[int, int, float] | None:
    """How often one is larger than the other, and how often by chance: the exact sign test.

    Args:
        more_Q: of each query; NaN where it has none.
        less_Q: of the same queries.

    Returns:
        How many are larger, how many differ at all, and the two-sided p of fair coins; None where
        none differs.
    """
    differences = more_Q - less_Q
    differences = differences[np.isfinite(differences) & (differences != 0)]
    n, larger = len(differences), int((differences > 0).sum())
    if not n:
        return None
    tail = sum(comb(n, k) for k in range(max(larger, n - larger), n + 1))
    return larger, n, min(1.0, 2 * tail / 2**n)
