"""The table of methods, of figures by query.

Q query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.evaluation.contenders import Contender, Cost
from rayinfluence.evaluation.intervals import mean_interval
from rayinfluence.evaluation.referees import (
    BESIDE,
    GROUPS,
    RECALL,
    RECIPROCAL,
    REMOVAL,
    TAIL_PATCH,
    Figures,
)
from rayinfluence.storage.results.evaluated import MethodFigures


@dataclass(frozen=True)
class Row:
    """What was measured of a contender.

    Attributes:
        contender: who.
        cost: what its scores took, where that is known.
        stability_Q: rank correlation of its scores with those of the first contender.
        figures: of the referees.
    """

    contender: Contender
    cost: Cost | None
    stability_Q: NDArray[np.float64]
    figures: Figures


def methods_of(rows: Sequence[Row]) -> Iterator[MethodFigures]:
    """The rows as values that are shown, in their order."""
    beside = {row.contender.name: row.figures for row in rows if row.contender.name in BESIDE}
    for place, row in enumerate(rows):
        found, name = row.figures, row.contender.name
        others = {
            other: over
            for other, figures in beside.items()
            if other != name and (over := found.over(figures, REMOVAL)) is not None
        }
        yield MethodFigures(
            name,
            row.contender.method,
            row.contender.needs,
            row.cost.seconds if row.cost else None,
            row.cost.peak_bytes if row.cost else None,
            {protocol: found.lds(protocol) for protocol in found.protocols},
            found.mean(REMOVAL),
            others,
            found.mean(RECALL),
            found.mean(RECIPROCAL),
            found.mean(GROUPS),
            found.mean(TAIL_PATCH),
            found.calibration,
            mean_interval(row.stability_Q) if place else None,
            {key: values_Q.tolist() for key, values_Q in found.by_query.items()},
            found.subset_errors,
        )
