"""The second pass: survivors of a scan are scored again at full rank, once per block of queries.

A block is as many queries as have their whole gradients in a bounded memory. What survived for any
of them, by any method, runs through the model once. What an object is about decides its name, so
that a run which asks for the same again finds it. Of each pair only its score comes back here; what
it is by layer and by token stays where it was committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.rescoring import queries_at_once
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.jobs.rescore import Asking, Pairs, RescoreJob
from rayinfluence.dataflow.jobs.tables import ReadScores, Scores
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.damaged import Discarded
from rayinfluence.dataflow.stages.ensure import Place, Stage, ensure
from rayinfluence.dataflow.stages.gathering import Sequences
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.scan import by_split
from rayinfluence.dataflow.stages.scanned import Ids, Scanned, Side, union
from rayinfluence.methods.registry import has_token_influences
from rayinfluence.storage.digest import digest, digest_bytes
from rayinfluence.storage.store import Store

#: An item has at most this many times the tokens of a batch.
_BATCHES = 16
#: Objects whose scores are read at once, and sooner than a process that reads them starts.
_READ_AT_ONCE, _FEW_ITEMS = 16, 64
#: Raised whenever the same survivors would get other numbers.
_VERSION = 2

#: By method, ids of sequences by query digest; ascending.
Wanted = Sequence[Mapping[str, Ids]]


@dataclass
class Found:
    """What the second pass says of a query's survivors by one method [S], in the order of ids.

    Attributes:
        ids_S: of the sequences.
        scores_S: at full rank.
        scanned_S: what the scan's query, cut to its rank, gives in this pass.
        at_S2: which of the objects has the scores by layer, and in which of its pairs.
        by_token_S2: the same of the scores by token; -1 where there are none.
        influences_S2: the same of token influences.
    """

    ids_S: Ids
    scores_S: NDArray[np.float64]
    scanned_S: NDArray[np.float64]
    at_S2: NDArray[np.int32]
    by_token_S2: NDArray[np.int32]
    influences_S2: NDArray[np.int32]

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """Where some sequences are."""
        return np.searchsorted(self.ids_S, ids)

    def ranked(self, side: Side) -> NDArray[np.int64]:
        """Places of a direction's survivors, by their scores at full rank and then by id."""
        places = self.places(side.ids_K)
        return places[np.lexsort((side.ids_K, -side.sign * self.scores_S[places]))]

    def first(self, sides: Sequence[Side], n: int | None) -> Ids:
        """The first of each direction, or all; ascending."""
        return np.unique(self.ids_S[np.concatenate([self.ranked(side)[:n] for side in sides])])

    def take_over(self, later: Found, n_items: int) -> None:
        """Take over what a later pass has by token, whose objects follow so many."""
        places = self.places(later.ids_S)
        for ours_S2, theirs_S2 in (
            (self.by_token_S2, later.by_token_S2),
            (self.influences_S2, later.influences_S2),
        ):
            there = theirs_S2[:, 0] >= 0
            ours_S2[places[there]] = theirs_S2[there] + np.array([n_items, 0], dtype=np.int32)


@dataclass(frozen=True)
class Rescored:
    """What the second pass found: its objects, and by method and query digest where it is."""

    items: tuple[str, ...]
    found: list[dict[str, Found]]


@dataclass(frozen=True)
class _Asked:
    """What a pass is asked, of what is wanted: by token, and with token influences."""

    wanted: Wanted
    by_token: Wanted
    influenced: Wanted


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

    def ids(self) -> Ids:
        """Of all survivors, ascending."""
        return union(
            one.survivors(query.digest) for one in self.scanned for query in one.asked(self.queries)
        )

    def run(
        self,
        sequences: Sequences,
        n_by_token: int | None,
        n_influences: int,
        progress: ProgressLog,
    ) -> Rescored:
        """Score all survivors, and by token the first of each direction, or all (None).

        Args:
            sequences: all survivors.
            n_by_token: of each direction.
            n_influences: of each direction get token influences, by methods that have them.
            progress: told of it.
        """
        asked = [[query.digest for query in one.asked(self.queries)] for one in self.scanned]
        everyone = [
            {d: one.survivors(d) for d in digests}
            for one, digests in zip(self.scanned, asked, strict=True)
        ]
        first: Wanted = everyone
        if n_by_token is not None:
            # Ranks at full rank are known afterwards; few move far from those of the scan.
            margin = n_by_token + n_by_token // 4
            first = [
                {d: union(side.ids_K[:margin] for side in one.sides(d)) for d in digests}
                for one, digests in zip(self.scanned, asked, strict=True)
            ]
        late, influenced = (
            [{d: np.zeros(0, np.int64) for d in digests} for digests in asked] for _ in range(2)
        )
        rescored = self._rescore(sequences, _Asked(everyone, first, influenced), progress)
        for place, one in enumerate(self.scanned):
            for d, found in rescored.found[place].items():
                ids = found.first(one.sides(d), n_by_token)
                late[place][d] = ids[found.by_token_S2[found.places(ids), 0] < 0]
                if has_token_influences(one.method):
                    # They cost too much for a margin, and wait until ranks are known.
                    influenced[place][d] = found.first(one.sides(d), n_influences)
        wanted = [
            {d: union([of_late[d], of_influenced[d]]) for d in of_late}
            for of_late, of_influenced in zip(late, influenced, strict=True)
        ]
        if not any(len(ids) for of_method in wanted for ids in of_method.values()):
            return rescored
        again = self._rescore(sequences, _Asked(wanted, late, influenced), progress)
        for of, more in zip(rescored.found, again.found, strict=True):
            for d, later in more.items():
                of[d].take_over(later, len(rescored.items))
        return Rescored(rescored.items + again.items, rescored.found)

    def _rescore(self, sequences: Sequences, asked: _Asked, progress: ProgressLog) -> Rescored:
        """Do what is not there yet, and read the scores of all of it."""
        items = [item for block in self._blocks() for item in self._items(sequences, block, asked)]
        job = RescoreJob(self.corpus, self.store, self.methods)
        pairs = sum(len(pairs.rows_P) for item in items for pairs in item.pairs)
        progress.note(f"rescore      {pairs:,} pairs of query and sequence")
        stage = Stage(
            stage_names.RESCORE,
            items,
            lambda item: [Place(self.store, item.key)],
            lambda lacking, told: self.runner.replicas(
                job, [one.item for one in lacking], told.advance
            ),
            n_tokens=lambda item: item.n_tokens,
        )
        discarded = Discarded()
        scores: dict[str, list[Scores]] = {}
        while len(scores) < len(items):
            ensure(stage, progress)
            for item, found in self._read([i for i in items if i.key not in scores]):
                if found is None:
                    discarded.discard(self.store, item.key)
                else:
                    scores[item.key] = found
        return self._join(items, [scores[item.key] for item in items])

    def _read(self, items: Sequence[Asking]) -> Iterator[tuple[Asking, list[Scores] | None]]:
        """The scores of items, which workers read; None where one is damaged."""
        keys = [item.key for item in items]
        some = [keys[start : start + _READ_AT_ONCE] for start in range(0, len(keys), _READ_AT_ONCE)]
        read = ReadScores(self.store, tuple(one.name for one in self.methods))
        found = self.runner.tasks(read, some, small=len(keys) <= _FEW_ITEMS)
        yield from zip(items, (one for of_some in found for one in of_some), strict=True)

    def _blocks(self) -> Iterator[tuple[EncodedQuery, ...]]:
        """Queries that share their banks, as many at a time as fit.

        Queries that are added later have banks of their own, and so change none.
        """
        device = self.replica.numerics.device
        gradients = sum(one.reads_queries for one in self.methods)
        size = queries_at_once(self.replica.shapes, device, max(1, gradients))
        groups: dict[tuple[str | None, ...], list[EncodedQuery]] = {}
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
        sequences: Sequences,
        block: tuple[EncodedQuery, ...],
        asked: _Asked,
    ) -> Iterator[Asking]:
        """The rows of a block, cut into pieces of some batches."""
        ids = union(_of(of, query) for of in asked.wanted for query in block)
        of_methods = [
            _pairs(ids, *([_of(of, q) for q in block] for of in of_method))
            for of_method in zip(asked.wanted, asked.by_token, asked.influenced, strict=True)
        ]
        lengths = sequences.n_tokens[sequences.places(ids)].astype(np.int64)
        # What runs through the model: each row, and each pair with token influences.
        runs = 1 + sum(
            np.bincount(one.rows_P[one.influences_P], minlength=len(ids)) for one in of_methods
        )
        tokens = lengths * runs
        pieces = (tokens.cumsum() - 1) // (_BATCHES * self.replica.numerics.batch_tokens)
        for piece in np.unique(pieces).tolist():
            start, end = np.searchsorted(pieces, [piece, piece + 1]).tolist()
            some = ids[start:end]
            pairs = tuple(_of_rows(one, start, end) for one in of_methods)
            about = {
                "version": _VERSION,
                "banks": [one.bank(block[0].digest) for one in self.scanned],
                "methods": [one.name for one in self.scanned],
                "queries": [query.digest for query in block],
                "ids": digest_bytes(some.tobytes()),
                "pairs": [
                    digest_bytes(b"".join(part.tobytes() for part in vars(one).values()))
                    for one in pairs
                ],
            }
            splits = tuple(by_split(self.splits, some.tolist()))
            content = digest([split.digest for split, _ in splits])
            n_tokens = int(tokens[start:end].sum())
            yield Asking(digest({**about, "splits": content}), block, pairs, splits, n_tokens)

    def _join(self, items: Sequence[Asking], scores: Sequence[list[Scores]]) -> Rescored:
        """What all items found, by method and query."""
        found: list[dict[str, Found]] = []
        for method, scanned in enumerate(self.scanned):
            blocks: dict[tuple[str, ...], list[int]] = {}
            for place, item in enumerate(items):
                if scanned.bank(item.queries[0].digest) is None:
                    continue
                blocks.setdefault(tuple(q.digest for q in item.queries), []).append(place)
            of_method: dict[str, Found] = {}
            for block, places in blocks.items():
                parts = [
                    _columns(place, items[place], items[place].pairs[method], scores[place][method])
                    for place in places
                ]
                queries, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
                # Items follow each other in the order of ids, and the sort is stable.
                order = np.argsort(queries, kind="stable")
                ends = np.searchsorted(queries[order], np.arange(len(block) + 1))
                for query, start, end in zip(block, ends[:-1], ends[1:], strict=True):
                    ours = order[start:end]
                    of_method[query] = Found(*(column[ours] for column in columns))
            found.append(of_method)
        return Rescored(tuple(item.key for item in items), found)


def _of(wanted: Mapping[str, Ids], query: EncodedQuery) -> Ids:
    """What a method wants of a query; nothing, if it does not ask it."""
    return wanted.get(query.digest, np.zeros(0, dtype=np.int64))


def _pairs(
    ids: Ids, wanted: Sequence[Ids], by_token: Sequence[Ids], influenced: Sequence[Ids]
) -> Pairs:
    """What some queries want of some rows, in the order of rows and then queries."""
    rows = np.searchsorted(ids, np.concatenate(wanted))
    queries = np.repeat(np.arange(len(wanted)), [len(of) for of in wanted])
    order = np.lexsort((queries, rows))
    tokens_P, influences_P = (
        np.concatenate([np.isin(of, some) for of, some in zip(wanted, more, strict=True)])
        for more in (by_token, influenced)
    )
    return Pairs(rows[order], queries[order], tokens_P[order], influences_P[order])


def _of_rows(pairs: Pairs, start: int, end: int) -> Pairs:
    """The pairs of some rows that follow each other, whose places are counted from the first."""
    ours = slice(*np.searchsorted(pairs.rows_P, [start, end]).tolist())
    return Pairs(
        pairs.rows_P[ours] - start,
        pairs.queries_P[ours],
        pairs.by_token_P[ours],
        pairs.influences_P[ours],
    )


def _columns(place: int, item: Asking, pairs: Pairs, scores: Scores) -> tuple[NDArray[Any], ...]:
    """Of an item's pairs by a method: queries, and what :class:`Found` says of each."""
    scores_P, scanned_P, token_places, influence_places = scores
    n = len(pairs.rows_P)
    at_P2 = np.stack([np.full(n, place), np.arange(n)], axis=1).astype(np.int32)
    by_token_P2, influences_P2 = np.full((2, n, 2), -1, dtype=np.int32)
    by_token_P2[token_places] = at_P2[token_places]
    influences_P2[influence_places] = at_P2[influence_places]
    ids_P = item.ids()[pairs.rows_P]
    return pairs.queries_P, ids_P, scores_P, scanned_P, at_P2, by_token_P2, influences_P2
