"""A partial: what one split yields for one bank.

Small, immutable, mergeable, checked when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.dataflow.compute.quarantine import Bad, from_json, lacking, to_json
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK

#: Partials merged into one at a time; part of the result's definition, since float sums are.
FAN_IN = 64
#: Raised whenever a partial says other things. Part of a bank's fingerprint: what an earlier one
#: wrote is neither misread nor in the way.
FORMAT = 3


@dataclass(frozen=True)
class Partial:
    """Survivors, group sums, tails, counts and quarantined sequences of some splits for one bank.

    Opponents are a top-k of negated scores. ``n_sequences`` and ``n_tokens`` are of sequences that
    have a score for some query; :meth:`scored` is of one.
    """

    proponents: TopK
    opponents: TopK
    groups: GroupSums
    tails: Tails
    n_sequences: int = 0
    n_tokens: int = 0
    quarantine: dict[int, Bad] = field(default_factory=dict)

    @classmethod
    def empty(cls, n_queries: int, top: int) -> Partial:
        """The identity of merging."""
        # Each its own: tensors that share memory cannot be written.
        proponents, opponents = TopK.empty(n_queries, top), TopK.empty(n_queries, top)
        return cls(proponents, opponents, GroupSums(), Tails.empty())

    def merge(self, other: Partial) -> Partial:
        """This partial and one of later splits."""
        return Partial(
            self.proponents.merge(other.proponents),
            self.opponents.merge(other.opponents),
            self.groups.merge(other.groups),
            self.tails.merge(other.tails),
            self.n_sequences + other.n_sequences,
            self.n_tokens + other.n_tokens,
            self.quarantine | other.quarantine,
        )

    @cached_property
    def _lacking(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return lacking(self.quarantine.values(), len(self.proponents.scores_QK))

    def scored(self, query: int) -> tuple[int, int]:
        """How many sequences, and tokens of them, have a score for a query, by its place."""
        sequences_Q, tokens_Q = self._lacking
        return self.n_sequences - int(sequences_Q[query]), self.n_tokens - int(tokens_Q[query])

    def survivors(self, query: int) -> NDArray[np.int64]:
        """The ids of a query's survivors of both directions, ascending."""
        return np.union1d(self.proponents.of_query(query)[1], self.opponents.of_query(query)[1])

    def to_tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What one object holds of it, and what its header says."""
        groups = list(self.groups.counts)
        n_queries = len(self.proponents.scores_QK)
        sums = np.stack([self.groups.sums_3Q[group] for group in groups]) if groups else None
        tensors = {
            "proponent_scores": self.proponents.scores_QK,
            "proponent_ids": self.proponents.ids_QK,
            "opponent_scores": self.opponents.scores_QK,
            "opponent_ids": self.opponents.ids_QK,
            "group_counts": np.array([self.groups.counts[g] for g in groups], dtype=np.int64),
            "group_sums": np.zeros((0, 3, n_queries)) if sums is None else sums,
            "tail_codes": self.tails.codes_E,
            "tail_counts": self.tails.counts_E,
            "tail_sums": self.tails.sums_E,
        }
        header: dict[str, Any] = {
            "groups": [list(group) for group in groups],
            "n_sequences": self.n_sequences,
            "n_tokens": self.n_tokens,
            "quarantine": to_json(self.quarantine),
        }
        # Few partials have such groups.
        if lacking := [
            place for place, group in enumerate(groups) if group in self.groups.lacking_Q
        ]:
            header["group_lacking"] = lacking
            parts = [self.groups.lacking_Q[groups[place]] for place in lacking]
            tensors["group_lacking"] = np.stack(parts)
        return {name: torch.from_numpy(one) for name, one in tensors.items()}, header

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Partial:
        """What :meth:`to_tensors` gave."""
        groups = [(str(key), str(value)) for key, value in header["groups"]]
        sums = _numpy(tensors["group_sums"])
        counts = tensors["group_counts"].tolist()
        return cls(
            TopK(_numpy(tensors["proponent_scores"]), _numpy(tensors["proponent_ids"])),
            TopK(_numpy(tensors["opponent_scores"]), _numpy(tensors["opponent_ids"])),
            GroupSums(
                dict(zip(groups, counts, strict=True)),
                dict(zip(groups, sums, strict=True)),
                {
                    groups[place]: _numpy(tensors["group_lacking"][row])
                    for row, place in enumerate(header.get("group_lacking", ()))
                },
            ),
            Tails(*(_numpy(tensors[f"tail_{part}"]) for part in ("codes", "counts", "sums"))),
            header["n_sequences"],
            header["n_tokens"],
            from_json(header["quarantine"]),
        )


class MergeTree:
    """Merges partials, added from left to right, in one fixed tree of fan-in FAN_IN.

    A level's partials wait until there are FAN_IN of them, so memory grows with the logarithm of
    their number. One partial of a level is passed on unmerged.
    """

    def __init__(self) -> None:
        self._levels: list[list[Partial]] = [[]]

    def add(self, partial: Partial, level: int = 0) -> None:
        """Add the next partial of a level; 0 is that of the leaves."""
        if level == len(self._levels):
            self._levels.append([])
        waiting = self._levels[level]
        waiting.append(partial)
        if len(waiting) == FAN_IN:
            self._levels[level] = []
            self.add(reduce(Partial.merge, waiting), level + 1)

    def total(self) -> Partial:
        """The partials merged; at least one must have been added."""
        carried: list[Partial] = []
        for waiting in self._levels:
            carried = [*waiting, *carried]
            carried = [reduce(Partial.merge, carried)] if carried else []
        return carried[0]


def _numpy(tensor: Tensor) -> Any:
    return tensor.numpy()
