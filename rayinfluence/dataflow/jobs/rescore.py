"""The second pass's job: rows of one block of queries, scored at full rank and committed.

Picklable; no Ray. Doing an item twice writes the same bytes under the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split, read_rows
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.representer_queries import rescore_representers
from rayinfluence.dataflow.compute.rescoring import Asked, Rescored, rescore, whole_banks
from rayinfluence.dataflow.compute.text_rescoring import rescore_texts
from rayinfluence.dataflow.compute.texts import TextBank
from rayinfluence.dataflow.compute.token_influences import pairs_token_influences, refuse_other_sums
from rayinfluence.dataflow.jobs.banks import load_stacked, stored_bank
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.layout import query_key, survivors_key
from rayinfluence.influence.bank import QueryBank
from rayinfluence.influence.representers import RepresenterBank
from rayinfluence.methods.registry import asks
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import tensor_names, write_tensors

#: Names of what there is where token influences are asked for, as of the tables' columns.
INFLUENCES = ("output_token_influences", "input_token_influences", "embedding_influences")
#: Queries of a method at full rank, and as the scan had them; None where that is whole.
_Whole = tuple[QueryBank, QueryBank | None]
#: Those of a method of which nothing was cut.
_Uncut = TextBank | RepresenterBank


@dataclass(frozen=True)
class Pairs:
    """Pairs of a method [P], in the order of rows and then queries.

    And which are scored by token, too, and which have token influences.
    """

    rows_P: NDArray[np.int64]
    queries_P: NDArray[np.int64]
    by_token_P: NDArray[np.bool_]
    influences_P: NDArray[np.bool_]

    def asked(self, whole: QueryBank, cut: QueryBank | None, n_rows: int) -> Asked:
        """The same as what is asked of a table."""
        wanted_NQ = np.zeros((n_rows, len(whole)), dtype=np.bool_)
        by_token_NQ = np.zeros_like(wanted_NQ)
        wanted_NQ[self.rows_P, self.queries_P] = True
        by_token_NQ[self.rows_P, self.queries_P] = self.by_token_P
        return Asked(whole, cut, wanted_NQ, by_token_NQ)

    def uncut(self, replica: Replica, bank: _Uncut, table: pa.Table) -> Rescored:
        """What is found of them by the texts of a table's rows, or by what the last layer sees."""
        told = table, self.rows_P, self.queries_P, self.by_token_P
        if isinstance(bank, TextBank):
            return rescore_texts(bank, *told)
        return rescore_representers(replica, bank, *told)

    def with_influences(
        self,
        replica: Replica,
        found: Rescored,
        whole: QueryBank,
        table: pa.Table,
        advance: Callable[[int], None],
    ) -> Rescored:
        """What was found of them, and the token influences of those that are to have them."""
        pairs = {
            place: (int(self.rows_P[place]), int(self.queries_P[place]))
            for place in np.flatnonzero(self.influences_P).tolist()
        }
        influences = pairs_token_influences(replica, whole, table, pairs, advance)
        refuse_other_sums(influences, found.layer_scores_PM.sum(axis=1))
        return replace(found, influences=influences)


@dataclass(frozen=True)
class Asking:
    """Some rows that survived for queries of a block.

    Attributes:
        digest: of everything that decides what is found; its name.
        queries: of the block.
        pairs: by method.
        splits: that hold the rows, with their ids; ascending.
        n_tokens: of the rows, and again of each pair with token influences.
    """

    digest: str
    queries: tuple[EncodedQuery, ...]
    pairs: tuple[Pairs, ...]
    splits: tuple[tuple[Split, tuple[int, ...]], ...]
    n_tokens: int

    @property
    def key(self) -> str:
        """Where it is committed."""
        return survivors_key(self.digest)

    def ids(self) -> NDArray[np.int64]:
        """Of the rows, ascending."""
        return np.array([i for _, some in self.splits for i in some], dtype=np.int64)


@dataclass
class RescoreJob:
    """Score what a scan found again, with the whole gradients of a block of queries.

    Those are made when the block begins, or read where a solver refined them, and kept while its
    rows follow each other.
    """

    corpus: Store
    store: Store
    methods: Sequence[MethodOperands]
    stage: ClassVar[str] = stage_names.RESCORE
    _block: tuple[str, ...] = ()
    _banks: list[_Whole | _Uncut | None] = field(default_factory=list)

    def prepare(self, replica: Replica) -> None:
        """Nothing; what a block needs is made when it begins."""

    def run(self, replica: Replica, item: Asking, watch: Watch) -> str:
        """Do one item; returns where it is."""
        begin_or_refuse(watch, f"scoring survivors again ({item.key})")
        block = tuple(query.digest for query in item.queries)
        if block != self._block:
            self._banks = []  # first: two blocks may not fit
            self._block, self._banks = block, self._begun(replica, item.queries)
        with watch.phase("read", item.digest):
            table = pa.concat_tables([read_rows(self.corpus, split, i) for split, i in item.splits])
        with watch.phase("score", item.digest):
            found = self._scored(replica, item.pairs, table, watch)
        with watch.phase("write", item.digest):
            tensors: dict[str, Tensor] = {}
            for operands, one in zip(self.methods, found, strict=True):
                tensors |= {f"{operands.name}/{name}": t for name, t in _tensors(one).items()}
            about = {"asked": item.digest, "modules": list(replica.modules)}
            write_tensors(self.store, item.key, tensors, about)
        return item.key

    def _begun(
        self, replica: Replica, queries: Sequence[EncodedQuery]
    ) -> list[_Whole | _Uncut | None]:
        """The queries of a block, by method; None by those that ask none of them."""
        digests = [query.digest for query in queries]
        gradients = [one for one in self.methods if one.has_parts and asks(one.method, digests[0])]
        solvers = [partial(operands.solver, replica) for operands in gradients]
        normalised = [operands.normalised for operands in gradients]
        whole = iter(whole_banks(replica, solvers, queries, normalised) if gradients else ())

        def bank(operands: MethodOperands) -> _Whole | _Uncut | None:
            if not asks(operands.method, digests[0]):
                return None
            if operands.reads_itself:
                return operands.itself(replica), None
            if operands.reads_last_layer:
                tensors = load_stacked(operands.method, operands.store, digests)
                return operands.representers(replica, digests, tensors)
            scanned = _as_scanned(replica, operands, digests)
            if isinstance(scanned, TextBank):
                return scanned
            if operands.whole is None:
                return next(whole), scanned
            refined = stored_bank(replica, operands.method, operands.whole, digests)
            assert isinstance(refined, QueryBank)
            return refined, scanned

        return list(map(bank, self.methods))

    def _scored(
        self, replica: Replica, pairs: Sequence[Pairs], table: pa.Table, watch: Watch
    ) -> list[Rescored]:
        """What is found by each method; rows that none wants the gradients of are not run."""
        asked = [
            of_method.asked(*bank, len(table))
            for of_method, bank in zip(pairs, self._banks, strict=True)
            if bank is not None and not isinstance(bank, _Uncut)
        ]
        run_N = np.zeros(len(table), dtype=np.bool_)
        for one in asked:
            run_N |= one.wanted_NQ.any(axis=1)
        found: Iterator[Rescored] = iter(())
        if asked:
            rows = table if run_N.all() else table.filter(pa.array(run_N))
            some = [one.of_rows(run_N) for one in asked]
            found = iter(rescore(replica, some, rows, watch.advance))
        watch.advance(sum(table["n_tokens"].filter(pa.array(~run_N)).to_pylist()))
        return [
            Rescored.none(len(replica.modules))
            if bank is None
            else of_method.uncut(replica, bank, table)
            if isinstance(bank, _Uncut)
            else of_method.with_influences(replica, next(found), bank[0], table, watch.advance)
            for of_method, bank in zip(pairs, self._banks, strict=True)
        ]


def _as_scanned(
    replica: Replica, operands: MethodOperands, queries: Sequence[str]
) -> QueryBank | TextBank | None:
    """Queries as the scan had them; None where that is whole, as it is here."""
    if any(name.endswith("/dense") for name in tensor_names(operands.store, query_key(queries[0]))):
        return None
    return stored_bank(replica, operands.method, operands.store, queries)


def _tensors(found: Rescored) -> dict[str, Tensor]:
    """What was found, but for rows and queries, which are those that were asked for."""
    token_scores = {place: scores[None] for place, scores in found.token_scores.items()}
    return {
        "layer_scores": torch.from_numpy(found.layer_scores_PM),
        "scanned": torch.from_numpy(found.scanned_P),
        **_by_token(token_scores, "token", ["token_scores"]),
        **_by_token(found.influences, "influence", INFLUENCES),
    }


def _by_token(
    found: Mapping[int, NDArray[np.float64]], kind: str, names: Sequence[str]
) -> dict[str, Tensor]:
    """What some pairs have for each token, [names, T], one pair after another."""
    places = sorted(found)
    whole = np.concatenate([np.zeros((len(names), 0)), *(found[p] for p in places)], axis=1)
    lengths = [found[place].shape[1] for place in places]
    return {
        f"{kind}_places": torch.tensor(places, dtype=torch.int64),
        f"{kind}_ends": torch.tensor(lengths, dtype=torch.int64).cumsum(0),
        **{name: torch.from_numpy(row.copy()) for name, row in zip(names, whole, strict=True)},
    }
