"""The scores of a split by one bank, and the partial that they come to.

B sequence in batch, N sequence of the split, Q query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayinfluence.dataflow.compute.grouping import SplitGroups
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.quarantine import Bad, whole
from rayinfluence.dataflow.compute.replica import Quarantine
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK
from rayinfluence.model.batches import Batch


@dataclass(frozen=True)
class Scored:
    """The scores [N, Q] of a split's sequences by a bank, NaN where one is not finite.

    ``n_tokens`` are of these sequences; those that no query has a score of are not among them.
    """

    ids_N: NDArray[np.int64]
    scores_NQ: NDArray[np.float64]
    n_tokens: int
    quarantine: dict[int, Bad]

    def partial(self, groups: SplitGroups, top: int) -> Partial:
        """The partial, of which the statistics are over all scores.

        Args:
            groups: of the split's sequences.
            top: survivors of each query and direction.
        """
        return Partial(
            proponents=TopK.of(self.scores_NQ, self.ids_N, top),
            opponents=TopK.of(-self.scores_NQ, self.ids_N, top),
            groups=GroupSums.of(self.scores_NQ, groups.of(self.ids_N)),
            tails=Tails.of(self.scores_NQ),
            n_sequences=len(self.ids_N),
            n_tokens=self.n_tokens,
            quarantine=dict(sorted(self.quarantine.items())),
        )


def finite_scores(
    found: Sequence[tuple[Batch, NDArray[np.float64]]], n_queries: int, quarantine: Quarantine
) -> Scored:
    """The scores of sequences that have a finite one by some query of a bank."""
    ids, scores, n_tokens = [np.zeros(0, np.int64)], [np.zeros((0, n_queries))], 0
    reason, bad = "its influence is not finite", whole(quarantine)
    for batch, part_BQ in found:
        finite_BQ = np.isfinite(part_BQ)
        some_B = finite_BQ.any(axis=1) | finite_BQ.all(axis=1)
        bad |= whole({int(i): reason for i in batch.sequence_ids[~some_B]})
        for row in np.flatnonzero(some_B & ~finite_BQ.all(axis=1)):
            queries = tuple(np.flatnonzero(~finite_BQ[row]).tolist())
            bad[int(batch.sequence_ids[row])] = Bad(reason, queries, int(batch.lengths_B[row]))
        ids.append(batch.sequence_ids[some_B])
        scores.append(np.where(finite_BQ, part_BQ, np.nan)[some_B])
        n_tokens += int(batch.lengths_B[some_B].sum())
    return Scored(np.concatenate(ids), np.concatenate(scores), n_tokens, bad)
