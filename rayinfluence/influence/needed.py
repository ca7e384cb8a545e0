"""How many sequences have to be scored so that some as strong as wanted are expected among them."""

from __future__ import annotations

import numpy as np

from rayinfluence.influence.concentration import PowerLaw
from rayinfluence.influence.largest import Largest, power_law_of
from rayinfluence.influence.laws import Vector

#: Of the first hits that are wanted.
TOP = 10


def sequences_needed(law: PowerLaw, n_scored: int, least: float, top: int = TOP) -> float:
    """The number of sequences among which ``top`` are expected to have a score above ``least``.

    n = top / (p_tail (least / start)^-(exponent - 1)), with p_tail the share of scores that the law
    is fitted to (Grosse et al. 2023). The sequences are like those that were scored.

    Args:
        law: of the largest scores.
        n_scored: of how many scores it is fitted to the largest.
        least: a score where the law holds, so no smaller than its start.
        top: how many are wanted.
    """
    above = law.count / n_scored * (least / law.start) ** (1 - law.exponent)
    return float(top / above)


def held_out_ratio(scores_N: Vector, start: float, seed: int, top: int = TOP) -> float | None:
    """The needed number by one half of the scores, over the number that the other half took.

    A fair coin deals each sequence to a half. The law is fitted to what one half has from the start
    on; the score that is wanted is the other's ``top``-th, which took all of that half. 1 where the
    law is right, but for chance: the place of the 10th largest is known to a third of itself.

    Args:
        scores_N: of all sequences, of either sign.
        start: of the law.
        seed: of the coins.
        top: how many are wanted.

    Returns:
        None where a half has too few scores from the start on.
    """
    coins_N = np.random.Generator(np.random.Philox(seed)).random(len(scores_N)) < 0.5
    ours, others = scores_N[coins_N], np.sort(scores_N[~coins_N])
    tail = Largest.of_scores(ours[ours >= start])
    law = power_law_of(tail) if tail.count > 1 else None
    if law is None or len(others) < top or others[-top] < law.start:
        return None
    return sequences_needed(law, len(ours), float(others[-top]), top) / len(others)
