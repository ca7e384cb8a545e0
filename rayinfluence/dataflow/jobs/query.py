"""The queries' job: a gradient, preconditioned by each method, cut and committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeVar

from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.ekfac import factors_by_module
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import (
    query_gradient,
)
from rayinfluence.dataflow.jobs.banks import query_key
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.methods.preconditioner import Preconditioner, preconditioner
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import write_tensors

if TYPE_CHECKING:
    pass

Item = TypeVar("Item", contravariant=True)
Outcome = TypeVar("Outcome", covariant=True)


@dataclass(frozen=True)
class MethodOperands:
    """What a method needs to precondition query gradients, and where its queries are kept.

    ``factors`` are as :meth:`Factors.tensors` gives them; empty for methods without curvature.
    """

    method: str
    store: Store
    factors: SharedTensors
    damping_scale: float
    damping: float | None
    n_tokens: int
    n_sequences: int

    def preconditioner(self, replica: Replica) -> Preconditioner:
        """The operator, on a replica's device."""
        shapes = replica.shapes.values()
        sources = {shape.name: shape.source for shape in shapes} if self.factors else {}
        tensors = {name: tensor.to(replica.device) for name, tensor in self.factors.items()}
        return preconditioner(
            self.method,
            factors_by_module(tensors, sources),
            {shape.name: shape.bias for shape in shapes},
            damping_scale=self.damping_scale,
            damping=self.damping,
            n_tokens=self.n_tokens,
            n_sequences=self.n_sequences,
        )


@dataclass
class QueryJob:
    """A query's gradient, preconditioned by each method that lacks it, cut and committed."""

    methods: Sequence[MethodOperands]
    rank: int | None
    stage: ClassVar[str] = "queries"
    _operators: list[Preconditioner] = field(default_factory=list)

    def prepare(self, replica: Replica) -> None:
        """Build the operators on the device."""
        self._operators = [operands.preconditioner(replica) for operands in self.methods]

    def run(
        self, replica: Replica, item: tuple[EncodedQuery, tuple[int, ...]], watch: Watch
    ) -> str:
        """Do one query for the methods at these places; returns its digest."""
        query, methods = item
        begin_or_refuse(watch, f"query {query.query.query_id!r}")
        found = query_gradient(replica, query)
        seed = int(query.digest[:8], 16) ^ replica.numerics.seed
        for index in methods:
            header = {
                "query": query.digest,
                "log_probabilities": found.log_probabilities,
                "ranks": found.ranks,
                "damping": dict(self._operators[index].damping),
            }
            tensors: dict[str, Tensor] = {}
            for name, (inputs, grads) in found.tokens.items():
                solved = self._operators[index].solve_tokens(name, inputs, grads, self.rank, seed)
                tensors |= {f"{name}/{part}": tensor for part, tensor in solved.items()}
            write_tensors(self.methods[index].store, query_key(query.digest), tensors, header)
        watch.advance(len(query.tokens))
        return query.digest
