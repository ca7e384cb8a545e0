"""Means of all scores, where all runs kept them: split by split of the first, in flat memory.

S seed, Q query, N sequence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayinfluence.dataflow.compute.partial import Partial
from rayinfluence.dataflow.compute.quarantine import Bad
from rayinfluence.dataflow.layout import BANKS, MANIFEST
from rayinfluence.dataflow.seeds.sources import Source
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.seeds import over_seeds
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import BANK_MANIFEST, error_column, scores_key
from rayinfluence.storage.store import Store, read_json, read_table, write_table

Ids = NDArray[np.int64]
Scores = NDArray[np.float64]

#: Queries whose scores are held at once.
_BLOCK = 64
_LACKING = "a seed has no score of it"


@dataclass(frozen=True)
class Kept:
    """All scores of one seed by one method."""

    source: Source
    method: str

    @property
    def splits(self) -> list[str]:
        """Digests of the splits, in the order of ids."""
        return list(self.source.manifest["dense_scores"])

    @cached_property
    def _banks(self) -> dict[str, Store]:
        """By query digest, the bank that has it."""
        named = self.source.manifest["methods"][self.method]["banks"]
        stores = [self.source.store / BANKS / name for name in named]
        return {
            query: bank
            for bank in stores
            for query in read_json(bank, BANK_MANIFEST)["query_digests"]
        }

    @cached_property
    def _ends(self) -> tuple[Ids, Ids]:
        """The first and the last id of each split; one without rows ends before it begins."""
        bank = next(iter(self._banks.values()))
        firsts, lasts = [], []
        for split in self.splits:
            ids = read_table(bank, scores_key(split), ["sequence_id"])["sequence_id"].to_numpy()
            firsts.append(int(ids[0]) if len(ids) else 0)
            lasts.append(int(ids[-1]) if len(ids) else -1)
        return np.array(firsts, np.int64), np.array(lasts, np.int64)

    def ids(self, split: str) -> Ids:
        """Of a split's sequences that have a score by some bank, ascending."""
        found = [
            read_table(bank, scores_key(split), ["sequence_id"])["sequence_id"].to_numpy()
            for bank in {bank.url: bank for bank in self._banks.values()}.values()
        ]
        return reduce(np.union1d, found)

    def scores(self, ids_N: Ids, query_digests: Sequence[str]) -> Scores:
        """The scores of some sequences [N, Q]; NaN where there is none.

        Args:
            ids_N: of the sequences, ascending and not none.
            query_digests: of the queries.
        """
        scores_NQ = np.full((len(ids_N), len(query_digests)), np.nan)
        firsts, lasts = self._ends
        (among,) = np.nonzero((firsts <= ids_N[-1]) & (lasts >= ids_N[0]) & (firsts <= lasts))
        overlapping = [self.splits[place] for place in among.tolist()]
        by_bank: dict[str, list[int]] = {}
        for place, query in enumerate(query_digests):
            by_bank.setdefault(self._banks[query].url, []).append(place)
        for places in by_bank.values():
            queries = [query_digests[place] for place in places]
            bank = self._banks[queries[0]]
            for split in overlapping:
                table = read_table(bank, scores_key(split), ["sequence_id", *queries])
                theirs = table["sequence_id"].to_numpy()
                at = np.searchsorted(ids_N, theirs)
                there = (at < len(ids_N)) & (ids_N[np.minimum(at, len(ids_N) - 1)] == theirs)
                for place, query in zip(places, queries, strict=True):
                    column = table[query].to_numpy().astype(np.float64)  # nulls are NaN
                    scores_NQ[at[there], place] = column[there]
        return scores_NQ


@dataclass(frozen=True)
class Means:
    """Means of all scores of some queries, which are written, and what they are like together.

    Attributes:
        bank: where they are.
        partial: the first of each query, and histograms of all.
        query_digests: of the queries.
    """

    bank: Store
    partial: Partial
    query_digests: tuple[str, ...]

    def errors(self, splits: Sequence[str]) -> list[dict[int, float]]:
        """Of each query the standard errors of its first, by sequence."""
        first = [self.partial.survivors(place) for place in range(len(self.query_digests))]
        columns = [error_column(query) for query in self.query_digests]
        found: list[dict[int, float]] = [{} for _ in columns]
        for split in splits:
            table = read_table(self.bank, scores_key(split), ["sequence_id", *columns])
            theirs = table["sequence_id"].to_numpy()
            for column, ids, errors in zip(columns, first, found, strict=True):
                there = np.isin(theirs, ids)
                of_first = table[column].to_numpy()[there].tolist()
                errors |= dict(zip(theirs[there].tolist(), of_first, strict=True))
        return found


def means_of_all(
    sources: Sequence[Source], method: str, query_digests: Sequence[str], top: int, into: Store
) -> Iterator[Means]:
    """Write the means of all scores by one method, and their standard errors, as banks.

    A bank has `_BLOCK` queries, and a table for each split of the first source.

    Args:
        sources: in their order; all keep all scores.
        method: whose.
        query_digests: that all of them asked.
        top: how many of each query and direction are named.
        into: the run directory that they go to.

    Raises:
        StorageError: scores are missing or damaged.
    """
    kept = [Kept(source, method) for source in sources]
    for start in range(0, len(query_digests), _BLOCK):
        queries = tuple(query_digests[start : start + _BLOCK])
        made_of = [source.fingerprint for source in sources]
        bank = into / BANKS / digest({"seeds": made_of, "method": method, "queries": queries})
        total = Partial.empty(len(queries), top)
        for split in kept[0].splits:
            partial, table = _means(kept, split, queries, top)
            write_table(bank, scores_key(split), table)
            total = total.merge(partial)
        told = {"method": method, "seeds": made_of, "query_digests": queries}
        bank.write(MANIFEST, json.dumps(told, indent=1).encode())
        yield Means(bank, total, queries)


def _means(
    kept: Sequence[Kept], split: str, queries: Sequence[str], top: int
) -> tuple[Partial, pa.Table]:
    """Of a split of the first, what all seeds have scored for some query."""
    ids_N = kept[0].ids(split)
    scores_SNQ = np.stack(
        [of.scores(ids_N, queries) if len(ids_N) else np.zeros((0, len(queries))) for of in kept]
    )
    lacking_NQ = np.any(np.isnan(scores_SNQ), axis=0)
    some_N = ~np.all(lacking_NQ, axis=1)
    ids_N, scores_SNQ = ids_N[some_N], scores_SNQ[:, some_N]
    means_NQ, errors_NQ = over_seeds(scores_SNQ)
    lacking_NQ = lacking_NQ[some_N]
    lacking = {
        int(ids_N[row]): Bad(_LACKING, tuple(np.flatnonzero(lacking_NQ[row]).tolist()))
        for row in np.flatnonzero(lacking_NQ.any(axis=1)).tolist()
    }
    partial = Partial(
        TopK.of(means_NQ, ids_N, top),
        TopK.of(-means_NQ, ids_N, top),
        GroupSums(),
        Tails.of(means_NQ),
        len(ids_N),
        0,
        lacking,
    )
    columns = {"sequence_id": pa.array(ids_N)}
    for place, query in enumerate(queries):
        for name, of_NQ in ((query, means_NQ), (error_column(query), errors_NQ)):
            columns[name] = pa.array(of_NQ[:, place], mask=lacking_NQ[:, place])
    return partial, pa.table(columns)
