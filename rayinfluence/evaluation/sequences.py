"""What a farm has to know of the corpus's sequences, read split by split where the runner is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from rayinfluence.corpus.metadata import at_key, canonical, shown
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.dataflow.jobs.gather import content_digest
from rayinfluence.storage.store import Store


class CorpusSequence(NamedTuple):
    """A sequence: its id, the digest of its token ids, its document, and its group, if any.

    Of a group the value as text, and its type as tables of groups have it.
    """

    sequence_id: int
    content_digest: str
    document_id: str
    group: str | None
    group_type: str | None = None


@dataclass(frozen=True)
class ReadSequences:
    """Reads the sequences of a split.

    Attributes:
        corpus: where it is.
        left_out: ids of those that are not wanted.
        group_by: the key of metadata whose values are the groups; None for none.
    """

    corpus: Store
    left_out: frozenset[int]
    group_by: str | None = None

    def __call__(self, split: Split) -> list[CorpusSequence]:
        """Those of one split, by ascending ids."""
        table = read_split(self.corpus, split)
        rows = zip(
            table["sequence_id"].to_pylist(),
            sequences_of(table),
            table["document_id"].to_pylist(),
            table["metadata"].to_pylist(),
            strict=True,
        )
        return [
            CorpusSequence(one, content_digest(tokens), document, *self._group(metadata))
            for one, tokens, document, metadata in rows
            if one not in self.left_out
        ]

    def _group(self, metadata: str) -> tuple[str | None, str | None]:
        if self.group_by is None:
            return None, None
        value: Any = at_key(json.loads(metadata), self.group_by)
        return (None, None) if value is None else shown(canonical(value))
