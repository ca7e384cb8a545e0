"""Choosing rows: which of a split's sequences the configuration's conditions leave, committed.

Picklable; no Ray and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rayinfluence.corpus.conditions import Chosen, Condition
from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.dataflow.layout import chosen_key
from rayinfluence.errors import DamagedError
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class SelectRows:
    """Chooses rows of splits.

    Attributes:
        corpus: where they are.
        store: for what these conditions choose.
        select, exclude: the conditions.
    """

    corpus: Store
    store: Store
    select: Condition | None
    exclude: Condition | None

    def __call__(self, split: Split) -> Split:
        """Choose those of one split."""
        enter_phase("select", split.digest)
        chosen = Chosen.of(read_split(self.corpus, split), self.select, self.exclude)
        tensors = {"rows": torch.from_numpy(chosen.rows_K)}
        write_tensors(self.store, chosen_key(split.digest), tensors, chosen.to_header())
        return split


@dataclass(frozen=True)
class ReadChosen:
    """Reads what was chosen of splits, by their digests."""

    store: Store

    def __call__(self, digests: Sequence[str]) -> tuple[list[Chosen], list[str]]:
        """What was chosen of each split, and the keys of what is damaged."""
        found, damaged = [], []
        for split in digests:
            try:
                tensors, header = read_tensors(self.store, chosen_key(split))
                found.append(Chosen.from_header(tensors["rows"].numpy(), header))
            except DamagedError:
                damaged.append(chosen_key(split))
        return found, damaged
