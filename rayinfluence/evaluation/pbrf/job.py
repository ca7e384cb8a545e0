"""The job of responses: of all queries to one sequence, beside what methods predict.

Picklable; no Ray. Doing an item twice writes the same bytes under the same key.

Q query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split, read_split
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.rescoring import whole_banks
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.layout import response_key
from rayinfluence.errors import NumericsError
from rayinfluence.evaluation.pbrf.moving import tracked_weights
from rayinfluence.evaluation.pbrf.response import Responses, Search
from rayinfluence.influence.bank import DenseQueries, QueryBank
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors

#: The gradient product of each module over its lambda: what is left where curvature is nothing.
IDENTITY = "identity"


@dataclass(frozen=True)
class ResponseAsked:
    """One sequence.

    Attributes:
        digest: of all that decides what is found; its name.
        split: with that sequence alone.
        n_tokens: of the basis.
    """

    digest: str
    split: Split
    n_tokens: int

    @property
    def key(self) -> str:
        """Where it is committed."""
        return response_key(self.digest)

    @property
    def sequence_id(self) -> int:
        """Its id."""
        return int(self.split.sequence_ids[0])


@dataclass(frozen=True)
class Answered:
    """What was found of a sequence.

    Attributes:
        changes_Q: of f, in its unit, as the weights go to the minimum.
        scores_Q: by method: raw, as of a scan.
        gradient: as of :class:`Minimum`.
        evaluations: as there.
    """

    changes_Q: NDArray[np.float64]
    scores_Q: Mapping[str, NDArray[np.float64]]
    gradient: float
    evaluations: int


@dataclass
class ResponseJob:
    """Move the weights for each sequence, from where they are.

    Attributes:
        corpus: where sequences are.
        store: where outcomes are committed.
        basis: splits of the sequences that hold predictions.
        queries: that are asked.
        methods: that predict; the first is EK-FAC, whose lambda holds the weights.
        epsilon: what a sequence's loss is multiplied with.
        search: how long a minimum is looked for.
    """

    corpus: Store
    store: Store
    basis: tuple[Split, ...]
    queries: Sequence[EncodedQuery]
    methods: Sequence[MethodOperands]
    epsilon: float
    search: Search
    stage: ClassVar[str] = stage_names.RESPOND
    _made: tuple[Responses, Mapping[str, QueryBank]] | None = field(default=None, repr=False)

    def prepare(self, replica: Replica) -> None:
        """Read the basis, ask the model where it starts, and precondition the queries."""
        table = pa.concat_tables([read_split(self.corpus, split) for split in self.basis])
        solvers = {name: self._ekfac(replica, name) for name in replica.modules}
        responses = Responses(
            replica,
            table,
            self.queries,
            lambda twin: tracked_weights(twin.modules, solvers),
            self.search,
        )
        names = [one.method for one in self.methods]
        banks = whole_banks(
            replica,
            [partial(one.solver, replica) for one in self.methods],
            self.queries,
            [one.normalised for one in self.methods],
        )
        by_name = dict(zip(names, banks, strict=True))
        by_name[IDENTITY] = _over_damping(by_name["gradient_product"], solvers)
        self._made = responses, by_name

    def run(self, replica: Replica, item: ResponseAsked, watch: Watch) -> str:
        """Do one sequence; returns where it is."""
        begin_or_refuse(watch, f"moving the weights by sequence {item.sequence_id}")
        assert self._made is not None
        responses, banks = self._made
        with watch.phase("read", item.digest):
            row = read_split(self.corpus, item.split)
        with watch.phase("respond", item.digest):
            found = responses.of(row, self.epsilon)
            scored = score_split(replica, [*banks.values()], row)
        tensors = {"changes": torch.from_numpy(found.changes_Q)}
        for name, of_bank in zip(banks, scored, strict=True):
            if of_bank.quarantine:
                raise NumericsError(
                    f"sequence {item.sequence_id} has no finite score by {name}; try `dtype: "
                    "float32`."
                )
            tensors[f"scores/{name}"] = torch.from_numpy(of_bank.scores_NQ[0])
        minimum = found.minimum
        header = {"gradient": minimum.gradient, "evaluations": minimum.evaluations}
        with watch.phase("write", item.digest):
            write_tensors(self.store, item.key, tensors, header)
        watch.advance(item.n_tokens)
        return item.key

    def _ekfac(self, replica: Replica, name: str) -> EKFAC:
        solver = self.methods[0].solver(replica, name)
        assert isinstance(solver, EKFAC)
        return solver


def _over_damping(bank: QueryBank, solvers: Mapping[str, EKFAC]) -> QueryBank:
    """The queries of a bank, each module's over its lambda; of a lambda of zero nothing."""
    modules = {}
    for name, module in bank.modules.items():
        assert isinstance(module, DenseQueries)
        damping = solvers[name].damping
        inverse = 1 / damping if damping else 0.0
        modules[name] = DenseQueries(module.matrix_QOJ * inverse, module.d_in)
    return QueryBank(bank.query_digests, modules)


def read_answer(store: Store, key: str) -> Answered:
    """What was committed.

    Raises:
        DamagedError: it is not what was written.
        StorageError: it is not there.
    """
    tensors, header = read_tensors(store, key)
    scores_Q = {
        name.removeprefix("scores/"): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith("scores/")
    }
    changes_Q = tensors["changes"].numpy()
    return Answered(changes_Q, scores_Q, float(header["gradient"]), int(header["evaluations"]))
