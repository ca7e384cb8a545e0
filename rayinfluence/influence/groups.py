"""Sums of scores per query and per group of sequences (a source, a licence).

Q query, N sequence, G group. Sums of floats depend on their order, so they are merged in one fixed
tree over splits and never twice; counts travel with them.

A key may have more values than anybody reads, such as one per document. Of each key the
MOST_VALUES values whose digests are smallest are kept, and the rest is one group. A value that is
among the smallest of all is among the smallest wherever it occurs, so it is never dropped on the
way: what is kept, and its counts, do not depend on how sequences were dealt to splits and merged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: (metadata key, value), such as ("source", "wikipedia"); values are text of any kind.
Group = tuple[str, str]
#: The value of sequences that have none, and that of all values that were not kept.
MISSING, OTHER = "", "other"
#: Values of a key that have groups of their own.
MOST_VALUES = 10_000


@dataclass(frozen=True)
class GroupSums:
    """Per group: how many sequences it has, and sums over them [3, Q].

    The sums are of positive scores, of negative scores, and of squared scores. ``lacking_Q``: how
    many sequences have no finite score for each query; of groups that have such sequences alone.
    """

    counts: dict[Group, int] = field(default_factory=dict)
    sums_3Q: dict[Group, NDArray[np.float64]] = field(default_factory=dict)
    lacking_Q: dict[Group, NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def of(cls, scores_NQ: NDArray[np.float64], values: Mapping[str, Sequence[str]]) -> GroupSums:
        """Sum a split's scores, for each key, by the value that each sequence has.

        Scores that are not finite are passed over.
        """
        if not (finite_NQ := np.isfinite(scores_NQ)).all():
            scores_NQ = np.where(finite_NQ, scores_NQ, 0.0)
        parts_3NQ = np.stack([np.maximum(scores_NQ, 0.0), np.minimum(scores_NQ, 0.0), scores_NQ**2])
        counts: dict[Group, int] = {}
        sums: dict[Group, NDArray[np.float64]] = {}
        lacking: dict[Group, NDArray[np.int64]] = {}
        for key, of_sequence in values.items() if len(scores_NQ) else ():
            places = {value: place for place, value in enumerate(sorted(set(of_sequence)))}
            index = np.array([places[value] for value in of_sequence])
            sizes = np.bincount(index)
            # Members of a group side by side, each group in the order of the sequences.
            order = np.argsort(index, kind="stable")
            starts = np.cumsum(sizes) - sizes
            sums_3GQ = np.add.reduceat(parts_3NQ[:, order], starts, axis=1)
            for value, position in places.items():
                counts[key, value] = int(sizes[position])
                sums[key, value] = sums_3GQ[:, position]
            for row in np.flatnonzero(~finite_NQ.all(axis=1)):
                _add(lacking, (key, of_sequence[int(row)]), (~finite_NQ[row]).astype(np.int64))
        return cls(counts, sums, lacking)._bounded()

    def count(self, group: Group, query: int) -> int:
        """How many sequences of a group have a score for a query, by its place."""
        lacking_Q = self.lacking_Q.get(group)
        return self.counts[group] - (0 if lacking_Q is None else int(lacking_Q[query]))

    def merge(self, other: GroupSums) -> GroupSums:
        """Add another's sums to ours; left plus right, in that order."""
        merged = self._copy()
        for group in other.counts:
            merged._take(other, group, group)
        return merged._bounded()

    def _copy(self) -> GroupSums:
        return GroupSums(dict(self.counts), dict(self.sums_3Q), dict(self.lacking_Q))

    def _take(self, other: GroupSums, group: Group, into: Group) -> None:
        """Add another's group to one of ours."""
        _add(self.counts, into, other.counts[group])
        _add(self.sums_3Q, into, other.sums_3Q[group])
        if group in other.lacking_Q:
            _add(self.lacking_Q, into, other.lacking_Q[group])

    def _bounded(self) -> GroupSums:
        """No more than MOST_VALUES values of a key; the rest in its group of others."""
        dropped = [
            group
            for key in dict.fromkeys(key for key, _ in self.counts)
            for group in self._surplus(key)
        ]
        if not dropped:
            return self
        bounded = self._copy()
        for group in dropped:
            bounded._take(self, group, (group[0], OTHER))
            for part in (bounded.counts, bounded.sums_3Q, bounded.lacking_Q):
                part.pop(group, None)
        return bounded

    def _surplus(self, key: str) -> Iterable[Group]:
        groups = [
            group for group in self.counts if group[0] == key and group[1] not in (MISSING, OTHER)
        ]
        return sorted(groups, key=_digest)[MOST_VALUES:] if len(groups) > MOST_VALUES else ()


def _add(numbers: dict[Group, Any], group: Group, more: Any) -> None:
    numbers[group] = numbers[group] + more if group in numbers else more


def _digest(group: Group) -> bytes:
    return hashlib.sha256(group[1].encode()).digest()
