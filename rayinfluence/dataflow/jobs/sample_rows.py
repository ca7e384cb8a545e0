"""Rows of a sample, copied to where each worker that needs all of them reads all of them.

Picklable; no Ray and no model. A sample may be from all over a corpus that is large.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from rayinfluence.corpus.shards import LABEL, LOSS_MASK
from rayinfluence.corpus.splits import Split, read_rows
from rayinfluence.storage.pieces import read_if_whole, write_piece
from rayinfluence.storage.store import Store

#: What a model is given, and what counted of it: no text, and nothing of documents.
_KEPT = ("tokens", "n_tokens", LOSS_MASK, LABEL, "sequence_id")


@dataclass(frozen=True)
class SampleRows:
    """Some rows of the sample: where they go, and splits with the ids of those."""

    key: str
    rows: tuple[tuple[Split, tuple[int, ...]], ...]


@dataclass(frozen=True)
class CopySample:
    """Copies rows, or finds them there."""

    corpus: Store
    store: Store

    def __call__(self, item: SampleRows) -> str:
        """See that a piece is there; returns where."""
        if read_if_whole(self.store, item.key) is None:
            read = [read_rows(self.corpus, split, ids) for split, ids in item.rows]
            kept = [name for name in _KEPT if name in read[0].column_names]
            write_piece(self.store, item.key, pa.concat_tables(one.select(kept) for one in read))
        return item.key
