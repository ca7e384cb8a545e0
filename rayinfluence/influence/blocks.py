"""At which depth of a model scores come about: modules by their blocks, and blocks by depth.

H hit, B block or band of blocks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

#: Of modules that are in no block.
OTHERS = "other modules"
#: Bands that depth is shown in, where there are as many blocks (Grosse et al. 2023).
BANDS = 9


def by_block(layer_scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Module scores by block, the first number in a module's name; blocks in order, others last.

    Within a block a module is called by what follows the number.
    """
    numbered: dict[int, dict[str, float]] = {}
    others: dict[str, float] = {}
    for name, score in layer_scores.items():
        if not math.isfinite(score):
            continue
        found = re.search(r"(?<![^.])[0-9]+(?![^.])", name) or re.search(r"[0-9]+", name)
        if found:
            rest = name[found.end() :].lstrip(".") or name
            numbered.setdefault(int(found.group()[:9]), {})[rest] = score
        else:
            others[name] = score
    blocks = {f"block {number}": numbered[number] for number in sorted(numbered)}
    return blocks | ({OTHERS: others} if others else {})


def bands(n_blocks: int, most: int = BANDS) -> list[range]:
    """Runs of neighbouring blocks of as equal length as can be, from the first to the last."""
    parts = np.array_split(np.arange(n_blocks), min(most, n_blocks))
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts]


def depths(scores_HB: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each hit, the share of each band in the sizes of their scores, and their centre of mass.

    Args:
        scores_HB: with their signs; what cancels within a band is not seen.

    Returns:
        Shares [H, B], which add up to 1, and centres [H], from 0 before the first band to 1 behind
        the last; NaN of a hit without any score.
    """
    sizes_HB = np.abs(scores_HB)
    with np.errstate(invalid="ignore"):
        shares_HB = sizes_HB / sizes_HB.sum(axis=1, keepdims=True)
    n = scores_HB.shape[1]
    return shares_HB, shares_HB @ ((np.arange(n) + 0.5) / n)
