"""The shard format: one Parquet file of sequences, in row groups that splits are made of.

A sequence is a whole document or a chunk of one. Its id is shard ordinal * 2^32 + row, added when a
shard is read: ordinals are given by the corpus's log, whose entries are only ever appended, so that
shards can be written in any order, anywhere. A row group has a digest over what it says, not over
its encoding, so it can be checked each time it is read, and bounds, so that nobody has to read it
to see whether a model can be scored on it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rayinfluence.objective_kinds import NUMBERS
from rayinfluence.storage.digest import digest_bytes

#: Folder of a corpus.
SHARDS = "shards"
ROWS_PER_SHARD = 2**32
LOSS_MASK, LABEL = "loss_mask", "label"

SCHEMA = pa.schema(
    [
        pa.field("tokens", pa.list_(pa.int32())),
        pa.field("n_tokens", pa.int32()),
        pa.field("document_id", pa.string()),
        pa.field("token_start", pa.int64()),  # the document's tokens before this sequence
        pa.field("char_start", pa.int64()),  # characters [char_start, char_end) of the document
        pa.field("char_end", pa.int64()),
        pa.field("metadata", pa.string()),  # a JSON object
        pa.field("document_row", pa.int64()),  # the document's line or row in its file, from 1
        # Which tokens the loss of training counted; null where the document does not say.
        pa.field(LOSS_MASK, pa.list_(pa.bool_())),
        pa.field(LABEL, pa.int32()),  # the class of the text; null unless it was asked for
    ]
)


def shard_key(digest: str) -> str:
    """Where a shard is: its name is the digest of its bytes."""
    return f"{SHARDS}/{digest}.parquet"


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What the corpus manifest knows of a row group."""

    n_rows: int
    n_tokens: int
    digest: str


class Bounds(NamedTuple):
    """What the token ids of a row group and the lengths of its sequences lie between."""

    lowest: int
    highest: int
    shortest: int
    longest: int

    def suit(self, vocabulary: int | None, context: int | None) -> bool:
        """Whether every row is one that a model can be scored on."""
        return (
            (self.lowest >= 0 or vocabulary == NUMBERS)
            and (vocabulary is None or self.highest < vocabulary)
            and self.shortest >= 2
            and (context is None or self.longest <= context)
        )


def row_group_digest(table: pa.Table) -> str:
    """The digest of what a row group says."""
    tokens = _flat_tokens(table)
    texts = "\x00".join(
        f"{document}\x01{metadata}"
        for document, metadata in zip(
            table["document_id"].to_pylist(), table["metadata"].to_pylist(), strict=True
        )
    )
    places = [
        np.ascontiguousarray(table[name].fill_null(-1).to_numpy(), dtype="<i8").tobytes()
        for name in ("n_tokens", "token_start", "char_start", "char_end", "document_row")
    ]
    masks = masks_of(table)
    told = [] if masks is None else [b"".join(map(_mask_bytes, masks))]
    labels = labels_of(table)
    told += [] if labels is None else [labels.astype("<i4").tobytes()]
    return digest_bytes(tokens.astype("<i4").tobytes(), *places, texts.encode(), *told)


def sequences_of(table: pa.Table) -> list[np.ndarray]:
    """The token ids of each row, without a copy."""
    column = table["tokens"].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    values = column.values.to_numpy(zero_copy_only=True)
    offsets = column.offsets.to_numpy()
    return [values[start:end] for start, end in pairwise(offsets)]


def masks_of(table: pa.Table) -> list[NDArray[np.bool_] | None] | None:
    """Which tokens of each row the loss counted, None where it is not known; None for none at all.

    Shards that were written before there were any have none.
    """
    if LOSS_MASK not in table.column_names or table[LOSS_MASK].null_count == len(table):
        return None
    return [
        None if mask is None else np.array(mask, dtype=np.bool_)
        for mask in table[LOSS_MASK].to_pylist()
    ]


def labels_of(table: pa.Table) -> NDArray[np.int64] | None:
    """The class of each row, -1 where it is not known; None where none is."""
    if LABEL not in table.column_names or table[LABEL].null_count == len(table):
        return None
    found: NDArray[np.int64] = table[LABEL].fill_null(-1).to_numpy().astype(np.int64)
    return found


def _mask_bytes(mask: NDArray[np.bool_] | None) -> bytes:
    return b"\x02" if mask is None else b"\x03" + mask.tobytes()


def bad_rows(table: pa.Table, vocabulary: int | None, context: int | None) -> dict[int, str]:
    """Rows that a model cannot be scored on, with the reason, by their place in the table."""
    bad: dict[int, str] = {}
    if table["tokens"].null_count:
        nulls = pc.indices_nonzero(table["tokens"].is_null())
        bad |= {int(row): "it has no tokens" for row in nulls.to_pylist()}
    for row, tokens in enumerate(sequences_of(table)):
        if row in bad:
            continue
        if len(tokens) < 2:
            bad[row] = f"{len(tokens)} tokens; at least 2 are needed to predict one"
        elif context is not None and len(tokens) > context:
            bad[row] = f"{len(tokens)} tokens, and the model's context is {context}"
        elif vocabulary == NUMBERS:
            continue
        elif tokens.min() < 0 or (vocabulary is not None and tokens.max() >= vocabulary):
            wrong = int(tokens.min() if tokens.min() < 0 else tokens.max())
            bad[row] = f"token id {wrong} is outside the model's vocabulary of {vocabulary}"
    return bad


class ShardWriter:
    """Collects rows into row groups of one shard, in memory; ``finish`` gives its bytes."""

    def __init__(self, row_group_tokens: int) -> None:
        self.row_groups: list[RowGroup] = []
        self.bounds: list[Bounds] = []
        self.n_rows = 0
        self.n_tokens = 0
        self._row_group_tokens = row_group_tokens
        self._rows: list[dict[str, Any]] = []
        self._pending_tokens = 0
        self._sink = io.BytesIO()
        self._writer = pq.ParquetWriter(self._sink, SCHEMA, compression="zstd")

    def add(self, row: dict[str, Any]) -> None:
        """Append a row (all columns but n_tokens; without a mask if there is none)."""
        n_tokens = len(row["tokens"])
        self._rows.append({**row, "n_tokens": n_tokens})
        self.n_rows += 1
        self.n_tokens += n_tokens
        self._pending_tokens += n_tokens
        if self._pending_tokens >= self._row_group_tokens:
            self._flush()

    def finish(self) -> bytes:
        """Close the file and return it."""
        self._flush()
        self._writer.close()
        return self._sink.getvalue()

    def _flush(self) -> None:
        if self._rows:
            table = pa.Table.from_pylist(self._rows, schema=SCHEMA)
            self._writer.write_table(table, row_group_size=len(table))
            self.row_groups.append(
                RowGroup(len(table), self._pending_tokens, row_group_digest(table))
            )
            self.bounds.append(_bounds(table))
        self._rows, self._pending_tokens = [], 0


def _bounds(table: pa.Table) -> Bounds:
    tokens = _flat_tokens(table)
    # Of no tokens at all the lengths tell.
    lowest, highest = (int(tokens.min()), int(tokens.max())) if len(tokens) else (0, 0)
    lengths = table["n_tokens"].to_numpy()
    return Bounds(lowest, highest, int(lengths.min()), int(lengths.max()))


def _flat_tokens(table: pa.Table) -> np.ndarray:
    sequences = sequences_of(table)
    return np.concatenate(sequences) if sequences else np.zeros(0, np.int32)
