"""The second pass: survivors of a scan are scored again at full rank, once per block of queries.

    <run>/rescored/<digest>.safetensors   some rows for a block of queries, by all methods

A block is as many queries as have their whole gradients in a bounded memory. What survived for any
of them, by any method, runs through the model once. What an object is about decides its name, so
that a run which asks for the same again finds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import SCHEMA
from rayinfluence.corpus.splits import Split, read_rows
from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.rescoring import queries_at_once
from rayinfluence.dataflow.jobs.banks import BankOperands
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.jobs.rescore import Asking, Pairs, RescoreJob
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.damaged import Discarded
from rayinfluence.dataflow.stages.ensure import Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.scan import by_split
from rayinfluence.errors import DamagedError
from rayinfluence.storage.digest import digest, digest_bytes
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors

#: An item has at most this many times the tokens of a batch.
_BATCHES = 16
#: Of survivors.
_ROWS = pa.schema([*SCHEMA, pa.field("sequence_id", pa.int64()), pa.field("shard", pa.string())])
#: Splits whose row groups are read sooner than a process that reads them starts.
_FEW_SPLITS = 64
#: Raised whenever the same survivors would get other numbers.
_VERSION = 1

Ids = NDArray[np.int64]
#: By method, ids of sequences by query digest; ascending.
Wanted = Sequence[Mapping[str, Ids]]


@dataclass(frozen=True)
class Side:
    """One direction of a query's survivors as a scan found them, the strongest first."""

    sign: int
    scores_K: NDArray[np.float64]
    ids_K: Ids


@dataclass(frozen=True)
class Scanned:
    """What a scan found by one method: its banks with their merged partials."""

    method: str
    banks: Sequence[tuple[BankOperands, Partial]]

    def of_query(self, query_digest: str) -> tuple[Partial, int]:
        """The partial of the bank that a query is in, and its place there."""
        for bank, partial in self.banks:
            if query_digest in bank.plan.query_digests:
                return partial, bank.plan.query_digests.index(query_digest)
        raise AssertionError(f"query {query_digest} is in no bank")  # plan_banks covers all

    def bank(self, query_digest: str) -> str:
        """The fingerprint of the bank that a query is in."""
        holding = (b.plan for b, _ in self.banks if query_digest in b.plan.query_digests)
        return next(holding).fingerprint

    def sides(self, query_digest: str) -> tuple[Side, Side]:
        """Proponents and opponents."""
        partial, place = self.of_query(query_digest)
        proponents, opponents = partial.proponents, partial.opponents
        return Side(1, *proponents.of_query(place)), Side(-1, *opponents.of_query(place))

    def survivors(self, query_digest: str) -> Ids:
        """The ids of both directions, ascending."""
        partial, place = self.of_query(query_digest)
        return partial.survivors(place)


def scanned_by_method(
    methods: Sequence[str], merged: Sequence[tuple[BankOperands, Partial]]
) -> list[Scanned]:
    """Banks with their merged partials, by method."""
    return [
        Scanned(method, [pair for pair in merged if pair[0].plan.method == method])
        for method in methods
    ]


@dataclass
class Found:
    """What the second pass says of a query's survivors by one method [S], in the order of ids.

    Attributes:
        ids_S: of the sequences.
        layer_scores_SM: by module, at full rank; a score is their sum.
        scanned_S: what the scan's query, cut to its rank, gives in this pass.
        token_scores: by place, of those that come first in either direction.
    """

    ids_S: Ids
    layer_scores_SM: NDArray[np.float64]
    scanned_S: NDArray[np.float64]
    token_scores: dict[int, NDArray[np.float64]]

    @classmethod
    def joined(cls, pieces: Sequence[Found]) -> Found:
        """Pieces whose ids follow each other."""
        starts = np.cumsum([0, *(len(piece.ids_S) for piece in pieces[:-1])]).tolist()
        return cls(
            np.concatenate([piece.ids_S for piece in pieces]),
            np.concatenate([piece.layer_scores_SM for piece in pieces]),
            np.concatenate([piece.scanned_S for piece in pieces]),
            {
                start + place: scores
                for start, piece in zip(starts, pieces, strict=True)
                for place, scores in piece.token_scores.items()
            },
        )

    @property
    def scores_S(self) -> NDArray[np.float64]:
        """At full rank."""
        scores_S: NDArray[np.float64] = self.layer_scores_SM.sum(axis=1)
        return scores_S

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """Where some sequences are."""
        return np.searchsorted(self.ids_S, ids)

    def ranked(self, side: Side) -> NDArray[np.int64]:
        """Places of a direction's survivors, by their scores at full rank and then by id."""
        places = self.places(side.ids_K)
        return places[np.lexsort((side.ids_K, -side.sign * self.scores_S[places]))]


@dataclass(frozen=True)
class SecondPass:
    """How survivors are scored again.

    Args:
        runner: where it runs.
        replica: of the model, for what decides blocks.
        corpus: with the rows.
        store: for what is found.
        splits: of the corpus.
        methods: what they need.
        scanned: what they found; as many.
        queries: that are asked.
    """

    runner: Runner
    replica: Replica
    corpus: Store
    store: Store
    splits: Sequence[Split]
    methods: Sequence[MethodOperands]
    scanned: Sequence[Scanned]
    queries: Sequence[EncodedQuery]

    def gather(self, progress: ProgressLog) -> pa.Table:
        """The rows of all survivors in the order of their ids, without a model."""
        with progress.stage("gather"):
            everyone = _union(
                one.survivors(query.digest) for one in self.scanned for query in self.queries
            )
            holding = [(self.corpus, *some) for some in by_split(self.splits, everyone.tolist())]
            gathered = self.runner.tasks(gather, holding, small=len(holding) <= _FEW_SPLITS)
            return pa.concat_tables([_ROWS.empty_table(), *gathered])

    def run(
        self, rows: pa.Table, n_by_token: int | None, progress: ProgressLog
    ) -> list[dict[str, Found]]:
        """Score all survivors, and by token the first of each direction, or all (None).

        Args:
            rows: as :meth:`gather` gives them.
            n_by_token: of each direction.
            progress: told of it.

        Returns:
            By method and query digest.
        """
        digests = [query.digest for query in self.queries]
        everyone = [{d: one.survivors(d) for d in digests} for one in self.scanned]
        if n_by_token is None:
            return self._rescore(rows, everyone, everyone, progress)
        # Ranks at full rank are known afterwards; few move far from those of the scan.
        margin = n_by_token + n_by_token // 4
        first = [
            {d: _union(side.ids_K[:margin] for side in one.sides(d)) for d in digests}
            for one in self.scanned
        ]
        found = self._rescore(rows, everyone, first, progress)
        late = [
            {d: self._without_tokens(one, d, of[d], n_by_token) for d in of}
            for one, of in zip(self.scanned, found, strict=True)
        ]
        if any(len(ids) for of_method in late for ids in of_method.values()):
            again = self._rescore(rows, late, late, progress)
            for of, more in zip(found, again, strict=True):
                for d, one in more.items():
                    places = of[d].places(one.ids_S)
                    of[d].token_scores |= {int(places[p]): t for p, t in one.token_scores.items()}
        return found

    def _without_tokens(self, scanned: Scanned, query: str, found: Found, n: int) -> Ids:
        firsts = np.concatenate([found.ranked(side)[:n] for side in scanned.sides(query)])
        lacking = [place for place in firsts.tolist() if place not in found.token_scores]
        return np.unique(found.ids_S[lacking])

    def _rescore(
        self, rows: pa.Table, wanted: Wanted, by_token: Wanted, progress: ProgressLog
    ) -> list[dict[str, Found]]:
        """Do what is not there yet, and read all of it."""
        items = [
            item for block in self._blocks() for item in self._items(rows, block, wanted, by_token)
        ]
        job = RescoreJob(self.corpus, self.store, self.methods)
        pairs = sum(len(pairs.rows_P) for item in items for pairs in item.pairs)
        progress.note(f"rescore      {pairs:,} pairs of query and sequence")
        stage = Stage(
            "rescore",
            items,
            lambda item: [Place(self.store, item.key)],
            lambda lacking, told: self.runner.replicas(
                job, [one.item for one in lacking], told.advance
            ),
            n_tokens=lambda item: item.n_tokens,
        )
        discarded = Discarded()
        tensors: dict[str, Mapping[str, Tensor]] = {}
        while len(tensors) < len(items):
            ensure(stage, progress)
            for item in [item for item in items if item.key not in tensors]:
                try:
                    tensors[item.key] = read_tensors(self.store, item.key)[0]
                except DamagedError:
                    discarded.discard(self.store, item.key)
        return self._join(items, tensors)

    def _blocks(self) -> Iterator[tuple[EncodedQuery, ...]]:
        """Queries that share their banks, as many at a time as fit.

        Queries that are added later have banks of their own, and so change none.
        """
        device = self.replica.numerics.device
        size = queries_at_once(self.replica.shapes, device, len(self.methods))
        groups: dict[tuple[str, ...], list[EncodedQuery]] = {}
        # The same question may be asked under several ids.
        for query in {query.digest: query for query in self.queries}.values():
            banks = tuple(one.bank(query.digest) for one in self.scanned)
            groups.setdefault(banks, []).append(query)
        for group in groups.values():
            ordered = sorted(group, key=lambda query: query.digest)
            for start in range(0, len(ordered), size):
                yield tuple(ordered[start : start + size])

    def _items(
        self,
        rows: pa.Table,
        block: tuple[EncodedQuery, ...],
        wanted: Wanted,
        by_token: Wanted,
    ) -> Iterator[Asking]:
        """The rows of a block, cut into pieces of some batches."""
        everyone = rows["sequence_id"].to_numpy()
        ids = _union(of[query.digest] for of in wanted for query in block)
        lengths = rows["n_tokens"].to_numpy()[np.searchsorted(everyone, ids)].astype(np.int64)
        pieces = (lengths.cumsum() - 1) // (_BATCHES * self.replica.numerics.batch_tokens)
        for piece in np.unique(pieces):
            some = ids[pieces == piece]
            pairs = tuple(
                _pairs(some, [w[q.digest] for q in block], [t[q.digest] for q in block])
                for w, t in zip(wanted, by_token, strict=True)
            )
            about = {
                "version": _VERSION,
                "banks": [one.bank(block[0].digest) for one in self.scanned],
                "methods": [one.method for one in self.scanned],
                "queries": [query.digest for query in block],
                "ids": digest_bytes(some.tobytes()),
                "pairs": [
                    digest_bytes(b"".join(part.tobytes() for part in vars(one).values()))
                    for one in pairs
                ],
            }
            splits = tuple(by_split(self.splits, some.tolist()))
            content = digest([split.digest for split, _ in splits])
            n_tokens = int(lengths[pieces == piece].sum())
            yield Asking(digest({**about, "splits": content}), block, pairs, splits, n_tokens)

    def _join(
        self, items: Sequence[Asking], tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> list[dict[str, Found]]:
        """What all items found, by method and query."""
        pieces: list[dict[str, list[Found]]] = [{} for _ in self.methods]
        for item in items:
            ids = item.ids()
            for of, one, pairs in zip(pieces, self.methods, item.pairs, strict=True):
                parts = {
                    name.removeprefix(f"{one.method}/"): tensor.numpy()
                    for name, tensor in tensors[item.key].items()
                    if name.startswith(f"{one.method}/")
                }
                by_pair = np.split(parts["token_scores"], parts["token_ends"][:-1])
                tokens = dict(zip(parts["token_places"].tolist(), by_pair, strict=False))
                for place, query in enumerate(item.queries):
                    (ours,) = np.nonzero(pairs.queries_P == place)
                    piece = Found(
                        ids[pairs.rows_P[ours]],
                        parts["layer_scores"][ours],
                        parts["scanned"][ours],
                        {i: tokens[pair] for i, pair in enumerate(ours.tolist()) if pair in tokens},
                    )
                    of.setdefault(query.digest, []).append(piece)
        return [{d: Found.joined(found) for d, found in of.items()} for of in pieces]


def gather(item: tuple[Store, Split, tuple[int, ...]]) -> pa.Table:
    """The rows of some sequences of a split, with the name of its shard."""
    corpus, split, ids = item
    shard = pa.array([split.shard] * len(ids))
    return read_rows(corpus, split, ids).append_column("shard", shard).cast(_ROWS)


def _pairs(ids: Ids, wanted: Sequence[Ids], by_token: Sequence[Ids]) -> Pairs:
    """What some queries want of some rows."""
    wanted_NQ = np.stack([np.isin(ids, of) for of in wanted], axis=1)
    by_token_NQ = np.stack([np.isin(ids, of) for of in by_token], axis=1)
    rows_P, queries_P = np.nonzero(wanted_NQ)
    return Pairs(rows_P, queries_P, by_token_NQ[rows_P, queries_P])


def _union(some: Iterable[Ids]) -> Ids:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *some]))
