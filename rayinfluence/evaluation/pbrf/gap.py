"""Why an influence is not what leaving out does: five gaps between six responses.

    trained from scratch without the sequence
        warm start         trained on without it, from where the weights are
        proximity          the same loss, held there by (lambda / 2) |theta - theta_s|^2
        non-convergence    the divergence from what is said there, in place of the loss
        linearisation      to first order in epsilon
        solver             an approximate inverse in place of the exact one

Each gap is the difference of two neighbours, so that they add up to the whole. The last two say
how well the arithmetic solves its question, and the others which question that is. Bae et al. 2022,
section 4.

Z sequence, Q query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import nn

from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.errors import NumericsError
from rayinfluence.evaluation.pbrf.response import Responses, twin_of
from rayinfluence.influence.correlations import pearson

#: The six responses, in order.
STEPS = ("scratch", "warm start", "proximal", "proximal Bregman", "linear", "approximate")
#: The gaps between them.
GAPS = ("warm start", "proximity", "non-convergence", "linearisation", "solver")
#: Of epsilon: so small that what is left of the second order is a thousandth of what it was.
_SMALL = 1e-3


class Retrain(Protocol):
    """Trains as the model was trained, without one sequence."""

    def __call__(self, sequence_id: int, warm: bool) -> nn.Module:
        """The model: from its weights on where ``warm``, else from where training began."""


@dataclass(frozen=True)
class Gap:
    """The difference of two responses that stand beside each other.

    Attributes:
        name: of :data:`GAPS`.
        size: root of the mean square over pairs, in the unit of f.
        share: of the same of the first response.
        correlation: of both, over sequences, the mean over queries; NaN where there is none.
    """

    name: str
    size: float
    share: float
    correlation: float


@dataclass(frozen=True)
class GapReport:
    """Six responses of the same pairs.

    Attributes:
        steps: in the order of :data:`STEPS`, each [Z, Q], in the unit of f.
        left_Z: the gradient of the proximal loss over that at the start, where its search ended.
            That loss is not convex: it may have gone down far and have no minimum nearby.
    """

    steps: tuple[NDArray[np.float64], ...]
    left_Z: NDArray[np.float64]

    @property
    def differences(self) -> list[NDArray[np.float64]]:
        """Of neighbours [Z, Q], in the order of :data:`GAPS`; they add up to the whole."""
        return [one - other for one, other in zip(self.steps, self.steps[1:], strict=False)]

    @property
    def gaps(self) -> list[Gap]:
        """The five."""
        whole = _size(self.steps[0])
        return [
            Gap(name, _size(gap), _size(gap) / whole if whole else np.nan, _mean_pearson(*both))
            for name, gap, both in zip(
                GAPS, self.differences, zip(self.steps, self.steps[1:], strict=False), strict=True
            )
        ]

    def with_first(self) -> list[float]:
        """The correlation of each step with training from scratch, as in :class:`Gap`."""
        return [_mean_pearson(self.steps[0], one) for one in self.steps]


def gap_report(
    responses: Responses,
    replica: Replica,
    rows: Sequence[pa.Table],
    epsilon: float,
    retrain: Retrain,
    predicted_ZQ: NDArray[np.float64],
) -> GapReport:
    """Take sequences out in all six ways.

    Args:
        responses: of the model as it is, whose weights move from there.
        replica: of the model.
        rows: each one sequence.
        epsilon: -1/N.
        retrain: trains again.
        predicted_ZQ: epsilon times an approximate solver's scores of these rows.

    Raises:
        NumericsError: the minimum of a proximal Bregman objective was not found.
    """
    left: list[float] = []
    found: list[list[NDArray[np.float64]]] = [[] for _ in STEPS[:-1]]
    for row in rows:
        sequence_id = int(row["sequence_id"][0].as_py())
        for place, warm in enumerate((False, True)):
            twin = twin_of(replica, retrain(sequence_id, warm))
            found[place].append(responses.values(twin) - responses.start_Q)
        proximal = responses.of(row, epsilon, "loss")
        left.append(proximal.minimum.gradient)
        found[2].append(proximal.changes_Q)
        found[3].append(_moved(responses, row, epsilon))
        found[4].append(_moved(responses, row, _SMALL * epsilon) / _SMALL)
    return GapReport((*(np.stack(one) for one in found), predicted_ZQ), np.array(left))


def _moved(responses: Responses, row: pa.Table, epsilon: float) -> NDArray[np.float64]:
    found = responses.of(row, epsilon)
    if not found.converged:
        raise NumericsError(
            f"the response to sequence {row['sequence_id'][0]} did not converge: its gradient is "
            f"{found.minimum.gradient:.2g} of what it was at the start, after "
            f"{found.minimum.evaluations:,} evaluations. Allow more, or damp more."
        )
    return found.changes_Q


def _size(values_ZQ: NDArray[np.float64]) -> float:
    return float(np.sqrt((values_ZQ**2).mean()))


def _mean_pearson(ours_ZQ: NDArray[np.float64], theirs_ZQ: NDArray[np.float64]) -> float:
    return float(pearson(ours_ZQ, theirs_ZQ).mean())
