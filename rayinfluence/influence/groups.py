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
        signed_2NQ = np.stack([np.maximum(scores_NQ, 0.0), np.minimum(scores_NQ, 0.0)])
        counts: dict[Group, int] = {}
        sums: dict[Group, NDArray[np.float64]] = {}
        for key, of_sequence in values.items() if len(scores_NQ) else ():
            places = {value: place for place, value in enumerate(sorted(set(of_sequence)))}
            index = np.array([places[value] for value in of_sequence])
            sizes = np.bincount(index)
            # Members of a group side by side, each group in the order of the sequences.
            order = np.argsort(index, kind="stable")
            starts = np.cumsum(sizes) - sizes
            sums_2GQ = np.add.reduceat(signed_2NQ[:, order], starts, axis=1)
            for value, position in places.items():
                counts[key, value] = int(sizes[position])
                sums[key, value] = sums_2GQ[:, position]
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
