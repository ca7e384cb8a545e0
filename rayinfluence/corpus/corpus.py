"""A tokenised corpus: its manifest, its splits, and reading one."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayinfluence.corpus.files import LeftOut
from rayinfluence.corpus.shards import (
    LATE_COLUMNS,
    ROWS_PER_SHARD,
    SCHEMA,
    RowGroup,
    bad_rows,
    row_group_digest,
    with_late_columns,
)
from rayinfluence.corpus.tokenize import (
    NAMED_KEYS,
    FileReport,
    ShardRecord,
    TokenizeSettings,
)
from rayinfluence.errors import CorpusError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.store import Store

MANIFEST = "manifest.json"
#: 2: metadata keep their JSON types, and files name their keys.
FORMAT = 2
#: What pyarrow and numpy raise over columns that are garbled or of another type than ours.
_UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, AttributeError)


@dataclass(frozen=True)
class Split:
    """A run of row groups of one shard: the unit of work, of retry and of the ledger.

    ``digest`` covers the content of its row groups and the ids of its sequences, so it names what a
    partial was made of.
    """

    index: int
    shard: str
    first_sequence_id: int
    first_row_group: int
    row_groups: tuple[RowGroup, ...]
    digest: str

    @property
    def n_tokens(self) -> int:
        """Tokens in the split."""
        return sum(group.n_tokens for group in self.row_groups)

    @property
    def n_rows(self) -> int:
        """Sequences in the split."""
        return sum(group.n_rows for group in self.row_groups)

    @property
    def name(self) -> str:
        """Where it is, in words."""
        last = self.first_row_group + len(self.row_groups) - 1
        return f"split {self.index} (row groups {self.first_row_group} to {last} of {self.shard})"


@dataclass(frozen=True)
class CorpusManifest:
    """What a corpus consists of.

    ``shards`` is only ever appended to: an ordinal is a place in it. ``left_out`` is what lay among
    the documents and was not read, when the last of them was appended.
    """

    tokenizer: str
    settings: TokenizeSettings
    shards: tuple[ShardRecord, ...]
    files: tuple[dict[str, Any], ...]
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The manifest as stored."""
        body = {"format": FORMAT, **asdict(self)}
        return json.dumps(body, indent=1, ensure_ascii=False).encode()

    @classmethod
    def read(cls, store: Store) -> CorpusManifest | None:
        """The manifest of a corpus, or None where there is none yet.

        Raises:
            CorpusError: it cannot be understood.
        """
        if not store.exists(MANIFEST):
            return None
        try:
            body = json.loads(store.read(MANIFEST))
            if body["format"] != FORMAT:
                raise ValueError(f"format {body['format']}, expected {FORMAT}")
            shards = tuple(
                ShardRecord(
                    record["key"],
                    record["source_digest"],
                    [RowGroup(**group) for group in record["row_groups"]],
                )
                for record in body["shards"]
            )
            settings = TokenizeSettings(**body["settings"])
            # Corpora that were tokenised before do not say.
            left_out = {why: LeftOut(**left) for why, left in body.get("left_out", {}).items()}
            return cls(body["tokenizer"], settings, shards, tuple(body["files"]), left_out)
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                f"{store.url}/{MANIFEST} is not a corpus manifest of this version: {error}. "
                "Tokenise into an empty folder."
            ) from error

    @property
    def metadata_keys(self) -> dict[str, int] | None:
        """How many documents have each metadata key; None where there may be keys not recorded."""
        counts: Counter[str] = Counter()
        for report in self.files:
            counts.update(report["metadata_keys"])
        full = any(len(report["metadata_keys"]) >= NAMED_KEYS for report in self.files)
        return None if full else dict(counts)

    def extended(
        self, records: Sequence[ShardRecord], reports: Sequence[FileReport]
    ) -> CorpusManifest:
        """The manifest with more shards at its end."""
        return replace(
            self,
            shards=(*self.shards, *records),
            files=(*self.files, *(asdict(report) for report in reports)),
        )


class Corpus:
    """Shards at one place; opened, planned and read by many processes at once.

    Args:
        store: where the manifest and the shards are.
        manifest: what they are.
    """

    def __init__(self, store: Store, manifest: CorpusManifest) -> None:
        self.store = store
        self.manifest = manifest
        self.n_sequences = sum(g.n_rows for s in manifest.shards for g in s.row_groups)
        self.n_tokens = sum(g.n_tokens for s in manifest.shards for g in s.row_groups)
        self.fingerprint = self.prefix_fingerprint(len(manifest.shards))

    @staticmethod
    def refuse_none(store: Store) -> None:
        """See that there is a corpus, without reading it.

        Raises:
            CorpusError: there is none.
        """
        if not store.exists(MANIFEST):
            raise CorpusError(
                f"{store.url} holds no tokenised corpus (no {MANIFEST}): list files under "
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
                "tokens. "
                "Check corpus.documents and corpus.text_column."
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

        Footers alone are read where the statistics of a row group show its token ids and lengths in
        range.

        Returns:
            Bad rows by sequence id, with the reason.

        Raises:
            CorpusError: a shard is missing, is not Parquet or lacks columns.
        """
        bad: dict[int, str] = {}
        for ordinal, shard in enumerate(self.manifest.shards):
            with _open_shard(self.store, shard.key) as parquet:
                if parquet.metadata.num_row_groups != len(shard.row_groups):
                    raise _damaged(
                        self.store,
                        shard.key,
                        f"it has {parquet.metadata.num_row_groups} row groups, and the manifest "
                        "records "
                        f"{len(shard.row_groups)}",
                    )
                first_row = 0
                for index in range(parquet.metadata.num_row_groups):
                    try:
                        rows = _bad_rows(parquet, index, vocabulary, context)
                    except _UNREADABLE as error:
                        raise _damaged(self.store, shard.key, str(error)) from error
                    first_id = ordinal * ROWS_PER_SHARD + first_row
                    bad |= {first_id + row: reason for row, reason in rows.items()}
                    first_row += shard.row_groups[index].n_rows
        return bad


def read_split(store: Store, split: Split) -> pa.Table:
    """The rows of a split and their sequence ids, checked against the manifest's digests.

    Raises:
        CorpusError: the shard is not Parquet, or says something else than when it was written.
        StorageError: the shard is missing or cannot be read.
    """
    return _read_row_groups(store, split, range(len(split.row_groups)))


def read_rows(store: Store, split: Split, sequence_ids: Sequence[int]) -> pa.Table:
    """Some rows of a split, in the order of their ids; only their row groups are read and checked.

    Args:
        store: of the corpus.
        split: that holds the sequences.
        sequence_ids: of the rows, ascending.

    Raises:
        CorpusError: the shard is not Parquet, or says something else than when it was written.
        StorageError: the shard is missing or cannot be read.
    """
    ends = np.cumsum([group.n_rows for group in split.row_groups]) + split.first_sequence_id
    holding = np.unique(np.searchsorted(ends, sequence_ids, side="right"))
    table = _read_row_groups(store, split, holding.tolist())
    places = np.searchsorted(table["sequence_id"].to_numpy(), sequence_ids)
    return table.take(pa.array(places))


def _read_row_groups(store: Store, split: Split, indices: Sequence[int]) -> pa.Table:
    """Row groups of a split, by their places in it, with the ids of their sequences."""
    with _open_shard(store, split.shard) as parquet:
        try:
            groups = [parquet.read_row_group(split.first_row_group + index) for index in indices]
            digests = [row_group_digest(group) for group in groups]
        except _UNREADABLE as error:
            raise _damaged(store, split.shard, str(error)) from error
    if digests != [split.row_groups[index].digest for index in indices]:
        raise _damaged(store, split.shard, "its content is not what the manifest records")
    sizes = [group.n_rows for group in split.row_groups]
    starts = split.first_sequence_id + np.cumsum(sizes) - sizes
    ids = np.concatenate([np.arange(sizes[i], dtype=np.int64) + starts[i] for i in indices])
    rows = with_late_columns(pa.concat_tables(groups))
    return rows.append_column("sequence_id", pa.array(ids))


@contextlib.contextmanager
def _open_shard(store: Store, key: str) -> Iterator[pq.ParquetFile]:
    with store.open(key) as stream:
        try:
            parquet = pq.ParquetFile(stream)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(store, key, f"it is not Parquet ({error})") from error
        there = {*parquet.schema_arrow.names, *LATE_COLUMNS}
        if missing := [name for name in SCHEMA.names if name not in there]:
            raise _damaged(store, key, f"it has no column {missing[0]!r}")
        yield parquet


def _damaged(store: Store, key: str, why: str) -> CorpusError:
    return CorpusError(
        f"the shard {store.url}/{key} cannot be used: {why}. Restore it, or delete the corpus "
        "folder and "
        "tokenise again."
    )


def _bad_rows(
    parquet: pq.ParquetFile, row_group: int, vocabulary: int | None, context: int | None
) -> dict[int, str]:
    if _in_range(parquet, row_group, vocabulary, context):
        return {}
    return bad_rows(parquet.read_row_group(row_group), vocabulary, context)


def _in_range(
    parquet: pq.ParquetFile, row_group: int, vocabulary: int | None, context: int | None
) -> bool:
    """Whether the footer's statistics show that every row of a row group is good."""
    group = parquet.metadata.row_group(row_group)
    bounds: dict[str, tuple[int, int]] = {}
    for index in range(group.num_columns):
        column = group.column(index)
        statistics = column.statistics
        if statistics is not None and statistics.has_min_max:
            bounds[column.path_in_schema.split(".")[0]] = (statistics.min, statistics.max)
    if "tokens" not in bounds or "n_tokens" not in bounds:
        return False
    (low, high), (shortest, longest) = bounds["tokens"], bounds["n_tokens"]
    return (
        low >= 0
        and (vocabulary is None or high < vocabulary)
        and shortest >= 2
        and (context is None or longest <= context)
    )
