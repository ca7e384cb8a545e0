"""Sums of scores per query and per group of sequences (a source, a licence).

Q query, N sequence, G group. Sums of floats depend on their order, so they are merged in one fixed
tree over splits and never twice; counts travel with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: (metadata key, value), such as ("source", "wikipedia").
Group = tuple[str, str]


@dataclass(frozen=True)
class GroupSums:
    """Per group: how many sequences it has; sums of positive and of negative scores [2, Q]."""

    counts: dict[Group, int] = field(default_factory=dict)
    sums_2Q: dict[Group, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(cls, scores_NQ: NDArray[np.float64], values: Mapping[str, Sequence[str]]) -> GroupSums:
        """Sum a split's scores, for each key, by the value that each sequence has."""
        signed = np.stack([np.maximum(scores_NQ, 0.0), np.minimum(scores_NQ, 0.0)])
        counts: dict[Group, int] = {}
        sums: dict[Group, NDArray[np.float64]] = {}
        for key, of_sequence in values.items():
            named, index = np.unique(
                np.asarray(of_sequence, dtype=object).astype(str), return_inverse=True
            )
            for position, value in enumerate(named):
                chosen = index == position
                counts[key, str(value)] = int(chosen.sum())
                sums[key, str(value)] = signed[:, chosen].sum(axis=1)
        return cls(counts, sums)

    def merge(self, other: GroupSums) -> GroupSums:
        """Add another's sums to ours; left plus right, in that order."""
        counts, sums = dict(self.counts), dict(self.sums_2Q)
        for group, count in other.counts.items():
            if group in counts:
                counts[group] += count
                sums[group] = sums[group] + other.sums_2Q[group]
            else:
                counts[group] = count
                sums[group] = other.sums_2Q[group]
        return GroupSums(counts, sums)
