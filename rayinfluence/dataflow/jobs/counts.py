"""Counting terms: how many sequences of a split have each term of the queries, committed.

Picklable; no Ray and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.dataflow.compute.texts import TermCounts
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.dataflow.layout import counts_key
from rayinfluence.errors import DamagedError
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class CountTerms:
    """Counts the terms of splits.

    Attributes:
        corpus: where they are.
        store: for the counts of these terms.
        terms_V: ascending.
    """

    corpus: Store
    store: Store
    terms_V: NDArray[np.int64]

    def __call__(self, split: Split) -> Split:
        """Count those of one split."""
        enter_phase("count", split.digest)
        counts = TermCounts.of(self.terms_V, sequences_of(read_split(self.corpus, split)))
        header = {"n_sequences": counts.n_sequences, "n_tokens": counts.n_tokens}
        tensors = {"holding": torch.from_numpy(counts.holding_V)}
        write_tensors(self.store, counts_key(split.digest), tensors, header)
        return split


@dataclass(frozen=True)
class MergeCounts:
    """Reads and merges the counts of splits, by their digests."""

    store: Store
    terms_V: NDArray[np.int64]

    def __call__(self, digests: Sequence[str]) -> tuple[TermCounts, list[str]]:
        """The counts of some splits, and the keys of those that are damaged."""
        merged, damaged = TermCounts.none(self.terms_V), []
        for split in digests:
            try:
                merged = merged.merge(self._read(split))
            except DamagedError:
                damaged.append(counts_key(split))
        return merged, damaged

    def _read(self, split: str) -> TermCounts:
        tensors, header = read_tensors(self.store, counts_key(split))
        holding = tensors["holding"].numpy()
        return TermCounts(self.terms_V, holding, header["n_sequences"], header["n_tokens"])
