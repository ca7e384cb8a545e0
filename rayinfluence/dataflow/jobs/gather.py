"""Rows of what survived, decoded and committed in pieces, so that nobody holds all of them.

A piece has texts, tokens, metadata and places of some sequences. What it is about decides its name,
so that a run which asks for the same again finds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.shards import ROWS_PER_SHARD, sequences_of
from rayinfluence.corpus.splits import Split, read_rows
from rayinfluence.corpus.tokenizer import token_texts
from rayinfluence.dataflow.compute.grouping import group_digest
from rayinfluence.dataflow.compute.surroundings import Around, surroundings
from rayinfluence.storage.digest import digest_bytes
from rayinfluence.storage.metadata import COLUMN, Kinds, columns, kinds_of
from rayinfluence.storage.pieces import read_if_whole, write_piece
from rayinfluence.storage.results.schema import SEQUENCE_FIELDS
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: Rows whose tokens are Python objects at once.
_AT_ONCE = 32
#: Of a piece: as of the table, with the metadata as JSON, since their types are those of all.
_PIECE = pa.schema([*SEQUENCE_FIELDS, pa.field(COLUMN, pa.string())])


@dataclass(frozen=True)
class Gathering:
    """A piece that is to be there.

    Attributes:
        key: where it is committed; a digest of everything that decides it.
        rows: splits with the ids of their sequences that survived, ascending.
        files: what the documents' file of each is called.
        beside: splits with the ids of sequences beside those.
        group_by: metadata keys that results are grouped by.
    """

    key: str
    rows: tuple[tuple[Split, tuple[int, ...]], ...]
    files: tuple[str | None, ...]
    beside: tuple[tuple[Split, tuple[int, ...]], ...]
    group_by: tuple[str, ...]


@dataclass(frozen=True)
class Gathered:
    """What is to be known of a piece's rows without reading them.

    Attributes:
        key: where it is.
        ids, n_tokens: of its sequences, ascending ids.
        kinds: what the values of each metadata key have in common.
        groups: by grouping key, the digest of each row's group.
    """

    key: str
    ids: NDArray[np.int64]
    n_tokens: NDArray[np.int32]
    kinds: Kinds
    groups: dict[str, pa.DictionaryArray]


@dataclass(frozen=True)
class Gather:
    """Makes pieces, or finds them."""

    corpus: Store
    store: Store
    tokenizer: Coding
    n_around: int

    def __call__(self, item: Gathering) -> Gathered:
        """See that a piece is there, and say what is in it."""
        # All of it is read: what is damaged is made again here, and nowhere later.
        table = read_if_whole(self.store, item.key)
        if table is None:
            read = [read_rows(self.corpus, split, ids) for split, ids in item.rows]
            beside = [read_rows(self.corpus, split, ids) for split, ids in item.beside]
            ids = [i for _, some in item.rows for i in some]
            around = surroundings(ids, [*read, *beside], self.tokenizer, self.n_around)
            table = pa.concat_tables(
                self._rows(split, rows, file, around)
                for (split, _), rows, file in zip(item.rows, read, item.files, strict=True)
            )
            write_piece(self.store, item.key, table)
        metadata = [json.loads(text) for text in table[COLUMN].to_pylist()]
        groups = {
            key: pa.array([group_digest(one, key) for one in metadata]).dictionary_encode()
            for key in item.group_by
        }
        return Gathered(
            item.key,
            table["sequence_id"].to_numpy(),
            table["n_tokens"].to_numpy(),
            kinds_of(metadata),
            groups,
        )

    def _rows(
        self, split: Split, rows: pa.Table, file: str | None, around: Mapping[int, Around]
    ) -> pa.Table:
        n = len(rows)
        beside = [around[i] for i in rows["sequence_id"].to_pylist()]
        tokens = sequences_of(rows)
        texts = [self._texts(tokens[start : start + _AT_ONCE]) for start in range(0, n, _AT_ONCE)]
        token_column = pa.chunked_array([piece for piece, _ in texts], pa.list_(pa.string()))
        made = {
            "content_digest": pa.array([content_digest(one) for one in tokens], pa.string()),
            "document_file": pa.array([file] * n, pa.string()),
            "shard": pa.array([split.shard] * n),
            "row": pa.array(rows["sequence_id"].to_numpy() % ROWS_PER_SHARD),
            "text": pa.chunked_array([text for _, text in texts], pa.string()),
            "token_texts": token_column,
            "text_before": pa.array([one.before for one in beside], pa.string()),
            "text_after": pa.array([one.after for one in beside], pa.string()),
        }
        arrays = [made[f.name] if f.name in made else rows[f.name].cast(f.type) for f in _PIECE]
        return pa.table(arrays, schema=_PIECE)

    def _texts(self, tokens: Sequence[NDArray[np.int32]]) -> tuple[pa.Array, pa.Array]:
        texts = [token_texts(self.tokenizer, one.tolist()) for one in tokens]
        return (
            pa.array(texts, pa.list_(pa.string())),
            pa.array(["".join(of_one) for of_one in texts], pa.string()),
        )


def with_types(piece: pa.Table, schema: pa.Schema) -> pa.Table:
    """A piece with its metadata as the whole table has them; what has none is as it was."""
    if COLUMN not in piece.column_names:
        return piece
    metadata = [json.loads(text) for text in piece[COLUMN].to_pylist()]
    piece = piece.drop_columns([COLUMN])
    for name, array in columns(metadata, schema).items():
        piece = piece.append_column(schema.field(name), array)
    return piece


def content_digest(tokens: NDArray[np.int32]) -> str:
    """The digest of a sequence's token ids: equal text, equal digest."""
    return digest_bytes(np.ascontiguousarray(tokens, dtype="<i4").tobytes())
