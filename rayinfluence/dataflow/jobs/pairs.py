"""The job of scores by pairs of tokens: the first survivors of one query, by all methods.

Picklable; no Ray. Doing an item twice writes the same bytes under the same key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.splits import Split, read_rows
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.pair_scores import Asked, PairScores, pair_scores
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.text_rescoring import text_pair_scores
from rayinfluence.dataflow.compute.texts import TextBank
from rayinfluence.dataflow.jobs.banks import stored_bank
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.layout import pairs_key
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, tensor_names, write_tensors

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class PairsAsked:
    """What is asked of a query.

    Attributes:
        digest: of everything that decides what is found; its name.
        query: the query.
        ends: of the parts of its completion.
        wanted: ids of sequences by method, ascending; none by methods that have no such scores.
        splits: that hold all of them, with their ids; ascending.
        n_tokens: of those, and of the parts.
    """

    digest: str
    query: EncodedQuery
    ends: tuple[int, ...]
    wanted: tuple[Ids, ...]
    splits: tuple[tuple[Split, tuple[int, ...]], ...]
    n_tokens: int

    @property
    def key(self) -> str:
        """Where it is committed."""
        return pairs_key(self.digest)


@dataclass
class PairsJob:
    """Score the first survivors of a query by parts of its completion and by tokens."""

    corpus: Store
    store: Store
    methods: Sequence[MethodOperands]
    stage: ClassVar[str] = stage_names.RESCORE

    def prepare(self, replica: Replica) -> None:
        """Nothing."""

    def run(self, replica: Replica, item: PairsAsked, watch: Watch) -> str:
        """Do one query; returns where it is."""
        begin_or_refuse(watch, f"scoring query {item.query.query.query_id!r} by pairs of tokens")
        with watch.phase("read", item.digest):
            table = pa.concat_tables([read_rows(self.corpus, split, i) for split, i in item.splits])
        with watch.phase("score", item.digest):
            found = self._scored(replica, item, table, watch)
        with watch.phase("write", item.digest):
            tensors: dict[str, Tensor] = {}
            for operands, of_method in zip(self.methods, found, strict=True):
                tensors |= _tensors(operands.method, of_method)
            write_tensors(self.store, item.key, tensors, {"asked": item.digest})
        return item.key

    def _scored(
        self, replica: Replica, item: PairsAsked, table: pa.Table, watch: Watch
    ) -> list[PairScores]:
        """By method; by one that reads gradients, if there is any, its sequences are run again."""
        by_gradients = [
            Asked(partial(one.solver, replica), one.normalised, wanted)
            for one, wanted in zip(self.methods, item.wanted, strict=True)
            if one.has_parts
        ]
        found: Iterator[PairScores] = iter(())
        if by_gradients:
            rows = _of(table, np.concatenate([one.ids for one in by_gradients]))
            scored = pair_scores(replica, item.query, item.ends, by_gradients, rows, watch.advance)
            found = iter(scored)
        return [
            next(found) if one.has_parts else self._by_text(replica, one, item, _of(table, wanted))
            for one, wanted in zip(self.methods, item.wanted, strict=True)
        ]

    def _by_text(
        self, replica: Replica, operands: MethodOperands, item: PairsAsked, table: pa.Table
    ) -> PairScores:
        """By a method that reads texts; nothing by one that reads each sequence by itself."""
        if not operands.reads_texts:
            return {}
        bank = stored_bank(replica, operands.method, operands.store, [item.query.digest])
        assert isinstance(bank, TextBank)
        return {
            sequence_id: text_pair_scores(bank, item.query, item.ends, sequence)
            for sequence_id, sequence in zip(
                table["sequence_id"].to_pylist(), sequences_of(table), strict=True
            )
        }


def _of(table: pa.Table, ids: Ids) -> pa.Table:
    """The rows of some sequences."""
    return table.filter(pa.array(np.isin(table["sequence_id"].to_numpy(), ids)))


def _tensors(method: str, found: PairScores) -> dict[str, Tensor]:
    """Scores [C, T] of all sequences, one after another, with their ids and where each ends."""
    if not found:
        return {}
    ids = sorted(found)
    ends = torch.tensor([found[i].shape[1] for i in ids], dtype=torch.int64).cumsum(0)
    return {
        f"{method}/ids": torch.tensor(ids, dtype=torch.int64),
        f"{method}/ends": ends,
        f"{method}/pair_scores": torch.from_numpy(np.concatenate([found[i] for i in ids], axis=1)),
    }


def read_pair_scores(store: Store, key: str, method: str) -> PairScores:
    """What was found by a method.

    Raises:
        DamagedError: the object is cut short or altered, or is another than its key says.
        StorageError: it is missing or cannot be read.
    """
    names = [f"{method}/{part}" for part in ("ids", "ends", "pair_scores")]
    if names[0] not in tensor_names(store, key):
        return {}
    tensors, _ = read_tensors(store, key, names)
    ids, ends, scores_CK = (tensors[name].numpy() for name in names)
    # The last split is what follows the end of all: nothing.
    parts = np.split(scores_CK, ends, axis=1)[:-1]
    return dict(zip(ids.tolist(), parts, strict=True))
