"""A tokenised corpus: its splits, its fingerprints, and what of it a model cannot be scored on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import pyarrow as pa

from rayinfluence.corpus.fragments import ShardRecord
from rayinfluence.corpus.manifest import CorpusManifest
from rayinfluence.corpus.ordinals import entry_key, refuse_old_layout
from rayinfluence.corpus.shards import ROWS_PER_SHARD, SHARDS, bad_rows
from rayinfluence.corpus.splits import Split, damaged_shard, read_row_groups, read_split
from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Listed, Store


class Corpus:
    """Shards at one place; opened, planned and read by many processes at once.

    Args:
        store: where the log, the fragments and the shards are.
        manifest: what they are.
    """

    def __init__(self, store: Store, manifest: CorpusManifest) -> None:
        self.store = store
        self.manifest = manifest
        self.n_sequences = sum(g.n_rows for s in manifest.shards for g in s.row_groups)
        self.n_tokens = sum(g.n_tokens for s in manifest.shards for g in s.row_groups)

    @property
    def size(self) -> str:
        """How much it is, in words."""
        return f"{self.n_sequences:,} sequences, {self.n_tokens:,} tokens"

    @cached_property
    def fingerprint(self) -> str:
        """The digest of all that the corpus says, in its order."""
        return self.prefix_fingerprint(len(self.manifest.shards))

    @staticmethod
    def refuse_none(store: Store) -> None:
        """See that there is a corpus, without reading it.

        Raises:
            CorpusError: there is none.
        """
        if not store.exists(entry_key(0)):
            refuse_old_layout(store)
            raise CorpusError(
                f"{store.url} holds no tokenised corpus (no {entry_key(0)}): list files under "
                "`corpus.documents` and run `rayinfluence tokenize`."
            )

    @classmethod
    def open(cls, store: Store) -> Corpus:
        """Open a corpus that `tokenize` wrote.

        Raises:
            CorpusError: there is none, or it holds no sequence.
        """
        cls.refuse_none(store)
        manifest = CorpusManifest.read(store)
        assert manifest is not None
        corpus = cls(store, manifest)
        if corpus.n_sequences == 0:
            raise CorpusError(
                f"the corpus at {store.url} is empty: no document gave a sequence of at least 2 "
                f"tokens{manifest.left_out_rows}. Check corpus.documents and corpus.text_column."
            )
        return corpus

    def plan(self, split_tokens: int) -> list[Split]:
        """Cut every shard into splits of about this many tokens.

        Appending shards changes no split of those before.
        """
        splits: list[Split] = []
        for ordinal, shard in enumerate(self.manifest.shards):
            first_group, first_row = 0, 0
            while first_group < len(shard.row_groups):
                end, tokens = first_group, 0
                while end < len(shard.row_groups) and (
                    end == first_group or tokens + shard.row_groups[end].n_tokens <= split_tokens
                ):
                    tokens += shard.row_groups[end].n_tokens
                    end += 1
                groups = tuple(shard.row_groups[first_group:end])
                first_id = ordinal * ROWS_PER_SHARD + first_row
                splits.append(
                    Split(
                        index=len(splits),
                        shard=shard.key,
                        first_sequence_id=first_id,
                        first_row_group=first_group,
                        row_groups=groups,
                        digest=digest([first_id, [group.digest for group in groups]]),
                    )
                )
                first_row += sum(group.n_rows for group in groups)
                first_group = end
        return splits

    def read(self, split: Split) -> pa.Table:
        """The rows of a split; see :func:`read_split`."""
        return read_split(self.store, split)

    def prefix_fingerprint(self, n_shards: int) -> str:
        """The fingerprint that this corpus had when it consisted of its first shards only."""
        return digest(
            [
                [group.digest for group in shard.row_groups]
                for shard in self.manifest.shards[:n_shards]
            ]
        )

    def check(self, vocabulary: int | None, context: int | None) -> dict[int, str]:
        """Look for rows that the model cannot be scored on.

        No shard is opened, but for the row groups whose bounds say that there is such a row. That
        shards are there, and as long as they were, is seen from their listing.

        Returns:
            Bad rows by sequence id, with the reason.

        Raises:
            CorpusError: a shard is missing, or is not what was written.
        """
        listed = self.store.list(SHARDS)
        bad: dict[int, str] = {}
        for ordinal, shard in enumerate(self.manifest.shards):
            refuse_lost(self.store, shard, listed)
            first_row = 0
            for place, (group, bounds) in enumerate(
                zip(shard.row_groups, shard.bounds, strict=True)
            ):
                if not bounds.suit(vocabulary, context):
                    [table] = read_row_groups(self.store, shard.key, {place: group})
                    first_id = ordinal * ROWS_PER_SHARD + first_row
                    rows = bad_rows(table, vocabulary, context)
                    bad |= {first_id + row: reason for row, reason in rows.items()}
                first_row += group.n_rows
        return bad


def refuse_lost(store: Store, shard: ShardRecord, listed: Mapping[str, Listed]) -> None:
    """See that a shard is in a listing, and as long as it was written.

    Raises:
        CorpusError: it is not.
    """
    if shard.key not in listed:
        raise damaged_shard(store, shard.key, "it is not there")
    if (size := listed[shard.key].size) != shard.size:
        why = f"it has {size:,} bytes, and {shard.size:,} were written"
        raise damaged_shard(store, shard.key, why)
