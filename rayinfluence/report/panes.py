"""Scores by pairs of tokens, of the answer and of a hit, as a page can hold them.

Where the run has them (``pair_scores``), the answer is cut into parts that end at ``part_ends``,
and a hit has a number for each of them and each of its tokens. In the page each is an eighth of a
word: a whole multiple, from -127 to 127, of a step that is a 127th of the hit's largest, and so
right to half a step. Sums by part of the answer are written out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayinfluence.report.heat import heated_tokens
from rayinfluence.storage.results import Survivor

_STEPS = 127


def parts_of(query: Mapping[str, Any]) -> list[int]:
    """Which part of the answer each token of it is in; empty where there are no parts."""
    ends: Sequence[int] = query.get("part_ends") or ()
    starts = [0, *ends]
    return [part for part, end in enumerate(ends) for _ in range(starts[part], end)]


def pane(hit: Survivor, start: int, stop: int, ahead: int, room: int) -> dict[str, str]:
    """What a hit's element says of pairs; nothing where there are none or no room for them.

    Args:
        hit: with ``pair_scores``, of as many parts as the answer has and all of its tokens.
        start: the first of its shown tokens that the page has.
        stop: where they end.
        ahead: how far from its score a token is.
        room: bytes.
    """
    pairs = hit.pair_scores or []
    if not pairs or len(pairs) * (stop - start) > room:
        return {}
    shown = [heated_tokens(hit.token_texts, row, ahead)[start:stop] for row in pairs]
    exact = np.array([[token.score or 0.0 for token in row] for row in shown])
    step, steps = quantised(exact)
    return {
        "data_pairs": base64.b64encode(steps.tobytes()).decode(),
        "data_step": f"{step:.6g}",
        "data_sums": ",".join(f"{sum(row):.5g}" for row in pairs),
    }


def quantised(
    exact: np.ndarray[Any, np.dtype[np.float64]],
) -> tuple[float, np.ndarray[Any, np.dtype[np.int8]]]:
    """A step and whole multiples of it, each right to half a step; [C, T] -> [C, T]."""
    step = float(np.abs(exact).max(initial=0.0)) / _STEPS
    if step == 0:
        return 0.0, np.zeros(exact.shape, np.int8)
    return step, np.rint(exact / step).astype(np.int8)
