"""Scores by pairs of tokens: the first survivors of each query, once their ranks are known.

An object is of one query, by all methods: the gradient of each part of its completion is made once,
and what it costs does not grow with where in the corpus its sequences are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.completion_parts import part_ends
from rayinfluence.dataflow.compute.pair_work import QueryWork, most_parts
from rayinfluence.dataflow.jobs.pairs import PairsAsked, PairsJob
from rayinfluence.dataflow.stages.damaged import Discarded, is_damaged
from rayinfluence.dataflow.stages.ensure import Place, Stage, ensure
from rayinfluence.dataflow.stages.gathering import Sequences
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.dataflow.stages.scan import by_split
from rayinfluence.dataflow.stages.scanned import Ids, union
from rayinfluence.dataflow.stages.second_pass import Rescored, SecondPass
from rayinfluence.methods.registry import factors_of
from rayinfluence.storage.digest import digest

#: Objects that are looked at sooner than a process that does it starts.
_FEW_ITEMS = 64
#: Raised whenever the same survivors would get other numbers.
_VERSION = 1
#: With fewer parts than that fewer survivors are taken.
_ENOUGH_PARTS = 8

#: By query digest: the query, and ids of sequences by method, ascending.
_Wanted = Mapping[str, tuple[EncodedQuery, tuple[Ids, ...]]]


@dataclass(frozen=True)
class Paired:
    """What there is by pairs of tokens.

    Attributes:
        n: survivors of each direction that have such scores; 0 without any.
        methods: by which.
        most_parts: that completions are cut into; 0 without any.
        ends: of each query the ends of its parts, where it has some.
        keys: and where its scores are.
    """

    n: int
    methods: tuple[str, ...]
    most_parts: int
    ends: Sequence[tuple[int, ...] | None]
    keys: Sequence[str | None]

    def told(self) -> dict[str, Any]:
        """What the manifest says of them."""
        return {"hits": self.n, "methods": list(self.methods), "most_parts": self.most_parts}


@dataclass(frozen=True)
class PairPass:
    """How the first survivors are scored by pairs of tokens.

    Args:
        again: the second pass, which knows the runner, the methods and the queries.
        sequences: all survivors.
        rescored: what the second pass found.
        n: survivors of each direction, at most.
    """

    again: SecondPass
    sequences: Sequences
    rescored: Rescored
    n: int

    def run(self, progress: ProgressLog) -> Paired:
        """Do what is not there yet."""
        queries = self.again.queries
        n, methods, most, wanted = self._affordable()
        if not most:
            if wanted:
                progress.note(
                    "pair scores  none: with two parts of each completion they would take more "
                    "than a tenth of the job; ask fewer queries"
                )
            return Paired(0, (), 0, [None] * len(queries), [None] * len(queries))
        items = {item.query.digest: item for item in self._items(wanted, most)}
        n_pairs = sum(len(ids) for item in items.values() for ids in item.wanted)
        progress.note(
            f"pair scores  {n_pairs:,} pairs of query and sequence, the first {n} of each "
            f"direction by {' and '.join(methods)}; completions in {most} parts at most"
        )
        self._ensure(list(items.values()), progress)
        ends = [part_ends(query, most) if query.digest in items else None for query in queries]
        keys = [
            None if of_query is None else items[query.digest].key
            for query, of_query in zip(queries, ends, strict=True)
        ]
        return Paired(n, methods, most, ends, keys)

    def _affordable(self) -> tuple[int, tuple[str, ...], int, _Wanted]:
        """How many survivors by which methods, and how many parts there are, and which survivors.

        Few parts show little. Where completions would have too few of them, the first of the
        methods by gradients has such scores alone, and then half as many survivors, and half again;
        if there are too few with one, whatever has the most.
        """
        methods = self.again.methods
        by_gradients = [one.method for one in methods if one.has_parts]
        by_texts = [one.method for one in methods if one.reads_texts]
        best: tuple[int, int, tuple[str, ...]] = (0, 0, ())
        wanted: _Wanted = {}
        n, some = self.n, by_gradients
        while n and best[0] < _ENOUGH_PARTS:
            chosen = (*some, *by_texts)
            of_n = self._wanted(n, chosen)
            most = self._most_parts(of_n)
            if not wanted or most > best[0]:
                wanted, best = of_n, (most, n, chosen)
            if len(some) > 1:
                some = some[:1]
            else:
                n //= 2
        most, n, chosen = best
        return n, chosen, most, wanted

    def _wanted(self, n: int, methods: Sequence[str]) -> _Wanted:
        """By query digest, the ids of the first survivors by each method, of those with parts."""
        wanted: dict[str, tuple[EncodedQuery, tuple[Ids, ...]]] = {}
        for query in self.again.queries:
            if query.digest in wanted or part_ends(query, 2) is None:
                continue
            ids = tuple(
                found[query.digest].first(one.sides(query.digest), n)
                if query.digest in found and one.method in methods
                else np.zeros(0, np.int64)
                for one, found in zip(self.again.scanned, self.rescored.found, strict=True)
            )
            if any(map(len, ids)):
                wanted[query.digest] = query, ids
        return wanted

    def _tokens(self, ids: Ids) -> int:
        return int(self.sequences.n_tokens[self.sequences.places(ids)].astype(np.int64).sum())

    def _run_again(self, ids: Sequence[Ids]) -> Ids:
        """The sequences that run through the model."""
        methods = self.again.methods
        return union(i for one, i in zip(methods, ids, strict=True) if one.has_parts)

    def _most_parts(self, wanted: _Wanted) -> int:
        if not wanted:
            return 0
        work = [
            QueryWork(
                len(query.answers[0].tokens),
                sum(query.answers[0].counted),
                self._tokens(self._run_again(ids)),
                [
                    self._tokens(of_method)
                    for one, of_method in zip(self.again.methods, ids, strict=True)
                    if one.has_parts
                ],
            )
            for query, ids in wanted.values()
        ]
        scanned = sum(split.n_tokens for split in self.again.splits)
        shapes = self.again.replica.shapes.values()
        rescored = int(self.sequences.n_tokens.sum(dtype=np.int64))
        return most_parts(work, shapes, scanned, self._fitted_tokens(), rescored)

    def _fitted_tokens(self) -> int:
        """That factors with eigenbases were fitted on, which methods share; 0 without any."""
        found = (
            one.curvature.n_tokens
            for one in self.again.methods
            if one.curvature is not None and factors_of(one.method) == "ekfac"
        )
        return next(found, 0)

    def _items(self, wanted: _Wanted, most: int) -> Iterator[PairsAsked]:
        for query, ids in wanted.values():
            ends = part_ends(query, most)
            assert ends is not None
            splits = tuple(by_split(self.again.splits, union(ids).tolist()))
            about = {
                "version": _VERSION,
                "banks": [one.bank(query.digest) for one in self.again.scanned],
                "methods": [one.method for one in self.again.scanned],
                "query": query.digest,
                "ends": ends,
                "ids": [of_method.tolist() for of_method in ids],
                "splits": digest([split.digest for split, _ in splits]),
            }
            n_tokens = self._tokens(self._run_again(ids))
            yield PairsAsked(digest(about), query, ends, ids, splits, n_tokens)

    def _ensure(self, items: Sequence[PairsAsked], progress: ProgressLog) -> None:
        """Have all of them, whole."""
        runner, store = self.again.runner, self.again.store
        job = PairsJob(self.again.corpus, store, self.again.methods)
        stage = Stage(
            stage_names.RESCORE,
            items,
            lambda item: [Place(store, item.key)],
            lambda lacking, told: runner.replicas(job, [one.item for one in lacking], told.advance),
            n_tokens=lambda item: item.n_tokens,
        )
        discarded, unseen = Discarded(), [item.key for item in items]
        while unseen:
            ensure(stage, progress)
            places = [(store, key) for key in unseen]
            found = runner.tasks(is_damaged, places, small=len(places) <= _FEW_ITEMS)
            unseen = [key for key, bad in zip(unseen, found, strict=True) if bad]
            for key in unseen:
                discarded.discard(store, key)
