"""Rows of survivors are decoded and committed by workers; no text, token or value comes here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.corpus.shards import ROWS_PER_SHARD
from rayinfluence.corpus.splits import Split
from rayinfluence.corpus.tokenizer import tokenizer_digest
from rayinfluence.dataflow.compute.surroundings import neighbours
from rayinfluence.dataflow.jobs.gather import Gather, Gathered, Gathering
from rayinfluence.dataflow.layout import rows_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.scan import by_split
from rayinfluence.dataflow.stages.scanned import Ids
from rayinfluence.storage.digest import digest
from rayinfluence.storage.metadata import Kinds, joined
from rayinfluence.storage.store import Store

if TYPE_CHECKING:
    from rayinfluence.corpus.tokenizer import Coding

#: Of a piece, about.
_PIECE_ROWS = 512
#: Tokens, about, and splits that are read and decoded sooner than a process that does it starts.
_FEW_TOKENS, _FEW_SPLITS = 2**20, 64
#: Raised whenever the same rows would make other pieces.
_VERSION = 2


@dataclass(frozen=True)
class Sequences:
    """The sequences that survived, in the order of their ids, by what decides where they go.

    Attributes:
        ids, n_tokens: of all.
        kinds: what the values of each metadata key have in common.
        groups: by grouping key, the digest of each sequence's group.
        pieces: where they are.
        starts: the place of each piece's first sequence.
    """

    ids: Ids
    n_tokens: NDArray[np.int32]
    kinds: Kinds
    groups: Mapping[str, pa.ChunkedArray]
    pieces: tuple[str, ...]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, gathered: Sequence[Gathered], group_by: Sequence[str]) -> Sequences:
        """Pieces that follow each other."""
        text = pa.dictionary(pa.int32(), pa.string())
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(one.ids for one in gathered)]),
            np.concatenate([np.zeros(0, np.int32), *(one.n_tokens for one in gathered)]),
            joined(one.kinds for one in gathered),
            {
                key: pa.chunked_array(
                    [one.groups[key] for one in gathered], text
                ).unify_dictionaries()
                for key in group_by
            },
            tuple(one.key for one in gathered),
            np.cumsum([0, *(len(one.ids) for one in gathered)])[:-1],
        )

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """Where some sequences are."""
        return np.searchsorted(self.ids, ids)

    def holding(self, ids: Ids) -> tuple[str, ...]:
        """The pieces that hold some sequences."""
        of_each = np.searchsorted(self.starts, self.places(ids), side="right") - 1
        return tuple(self.pieces[piece] for piece in np.unique(of_each).tolist())


def gather(
    runner: Runner,
    corpus: Store,
    store: Store,
    splits: Sequence[Split],
    files: Sequence[str | None],
    tokenizer: Coding,
    group_by: Sequence[str],
    n_around: int,
    ids: Ids,
) -> Sequences:
    """See that the rows of some sequences are there, decoded, and say how long they are.

    Args:
        runner: where it is done.
        corpus: with the rows.
        store: for the pieces.
        splits: of the corpus.
        files: by ordinal of a shard, what its documents' file is called.
        tokenizer: of the corpus.
        group_by: metadata keys that results are grouped by.
        n_around: characters of a document that are kept on either side of a sequence.
        ids: of the sequences, ascending.
    """
    group_by = tuple(group_by)
    definition = tokenizer_digest(tokenizer)
    holding = by_split(splits, ids.tolist())
    items = []
    for rows in _pieces(holding):
        of_each = tuple(_file(files, split) for split, _ in rows)
        content = [[split.digest, split.shard, list(some)] for split, some in rows]
        about = {
            "version": _VERSION,
            "tokenizer": definition,
            "rows": content,
            "files": of_each,
            "around": n_around,
        }
        beside = tuple(_beside(splits, rows)) if n_around else ()
        items.append(Gathering(rows_key(digest(about)), rows, of_each, beside, group_by))
    n_tokens = sum(len(some) * split.n_tokens / split.n_rows for split, some in holding)
    small = n_tokens <= _FEW_TOKENS and len(holding) <= _FEW_SPLITS
    done = runner.tasks(Gather(corpus, store, tokenizer, n_around), items, small=small)
    return Sequences.of(list(done), group_by)


def _pieces(
    holding: Sequence[tuple[Split, tuple[int, ...]]],
) -> Iterator[tuple[tuple[Split, tuple[int, ...]], ...]]:
    """Rows of splits, some of several splits or of a part of one together."""
    piece: list[tuple[Split, tuple[int, ...]]] = []
    room = _PIECE_ROWS
    for split, ids in holding:
        start = 0
        while start < len(ids):
            some = ids[start : start + room]
            piece.append((split, some))
            start, room = start + len(some), room - len(some)
            if not room:
                yield tuple(piece)
                piece, room = [], _PIECE_ROWS
    if piece:
        yield tuple(piece)


def _beside(
    splits: Sequence[Split], rows: Sequence[tuple[Split, tuple[int, ...]]]
) -> Iterator[tuple[Split, tuple[int, ...]]]:
    """What there is of the sequences beside some, in whichever splits."""
    wanted = neighbours([i for _, ids in rows for i in ids])
    for split, ids in by_split(splits, wanted):
        end = split.first_sequence_id + split.n_rows
        if there := tuple(i for i in ids if split.first_sequence_id <= i < end):
            yield split, there


def _file(files: Sequence[str | None], split: Split) -> str | None:
    ordinal = split.first_sequence_id // ROWS_PER_SHARD
    return files[ordinal] if ordinal < len(files) else None
