"""What became of models beside what scores said: the figures of a method.

Q query, S subset, G group, K added sequence, R seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rayinfluence.evaluation.calibration import calibration
from rayinfluence.evaluation.claims import Claims
from rayinfluence.evaluation.intervals import mean_interval, paired_difference
from rayinfluence.evaluation.lds import error_of_subsets, linear_scores
from rayinfluence.evaluation.leave_out import Effects, agreement
from rayinfluence.storage.results.evaluated import Calibration, Interval

#: Beside whom the rise of the loss is told.
BESIDE = ("bm25", "random")


@dataclass(frozen=True)
class Outcomes:
    """What became of models, whatever the method.

    Attributes:
        protocols: f after training on each subset, by seed [R, S, Q], in nats, by name.
        groups: effects of leaving groups out; None where none were.
        added_KQ: changes of f by one copy more of each added sequence, in nats, the mean over
            seeds; None where nothing was added.
        folds: of each protocol's subsets, equal of those that were drawn together [S].
    """

    protocols: Mapping[str, NDArray[np.float64]]
    groups: Effects | None
    added_KQ: NDArray[np.float64] | None
    folds: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """Figures of a method.

    Attributes:
        protocols: names of those that there are linear datamodeling scores of.
        by_query: figures by their names [Q]; NaN for queries that have none.
        calibration: of a method that predicts changes.
        subset_errors: how far other subsets would move linear datamodeling scores, by protocol.
    """

    protocols: tuple[str, ...]
    by_query: Mapping[str, NDArray[np.float64]]
    calibration: Calibration | None
    subset_errors: Mapping[str, float | None] = field(default_factory=dict)

    def lds(self, protocol: str) -> Interval | None:
        """The mean linear datamodeling score of a protocol."""
        return self.mean(_lds(protocol))

    def mean(self, name: str) -> Interval | None:
        """The mean of a figure over queries; None where nothing was measured."""
        values_Q = self.by_query.get(name)
        return None if values_Q is None else mean_interval(values_Q)

    def over(self, other: Figures, name: str) -> Interval | None:
        """How much larger it is than another's, of the same queries."""
        ours_Q, theirs_Q = self.by_query.get(name), other.by_query.get(name)
        if ours_Q is None or theirs_Q is None:
            return None
        return paired_difference(ours_Q, theirs_Q)


def _lds(protocol: str) -> str:
    return f"lds {protocol}"


REMOVAL, RECALL, RECIPROCAL, TAIL_PATCH = "removal", "recall", "reciprocal_rank", "tail_patch"
#: Agreement with groups that were left out, of ranks and of values.
GROUPS, GROUPS_BY_VALUE = "groups", "groups_by_value"


def figures(
    said: Claims,
    became: Outcomes,
    losses_Q: NDArray[np.float64],
    patched_Q: NDArray[np.float64],
    copy_Q: NDArray[np.float64] | None,
) -> Figures:
    """Compare what a method said with what became of models.

    Args:
        said: by the method.
        became: of models.
        losses_Q: rise of the loss without the method's first sequences; NaN where not asked.
        patched_Q: change of f by a step on them; NaN where not asked.
        copy_Q: what a score is multiplied with to predict a change in nats, 1 / N, NaN for queries
            of which none is predicted; None by a method that predicts none.
    """
    found = {
        _lds(name): linear_scores(said.predicted[name], values_RSQ)
        for name, values_RSQ in became.protocols.items()
    }
    found[REMOVAL], found[TAIL_PATCH] = losses_Q, patched_Q
    found[RECALL], found[RECIPROCAL] = said.recall_Q, said.reciprocal_Q
    if became.groups is not None:
        agreed = agreement(said.groups_GQ, became.groups.mean_GQ)
        found[GROUPS], found[GROUPS_BY_VALUE] = agreed.spearman_Q, agreed.pearson_Q
    told = None
    if copy_Q is not None and became.added_KQ is not None:
        told = calibration(said.added_KQ * copy_Q, became.added_KQ)
    errors = {
        name: error_of_subsets(said.predicted[name], became.protocols[name], folds_S)
        for name, folds_S in became.folds.items()
    }
    return Figures(tuple(became.protocols), found, told, errors)
