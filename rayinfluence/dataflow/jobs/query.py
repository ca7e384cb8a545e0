"""The queries' job: gradients, preconditioned by each method, cut and committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.ekfac import ModuleFactors
from rayinfluence.curvature.solver import Solver
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.dataflow.jobs.handles import Handle
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.layout import query_key
from rayinfluence.influence.lowrank import low_rank
from rayinfluence.methods.solvers import Fitted, solver
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import write_tensors


@dataclass(frozen=True)
class MethodOperands:
    """What a method needs to precondition query gradients, and where its queries are kept.

    Attributes:
        method: its name.
        store: of its queries.
        factors: of modules, as ``inputs/<source>`` and ``outputs/<module>``; empty for methods
            without curvature.
        damping_scale, damping: as in the configuration.
        n_tokens, n_sequences: that the factors were fitted on.
    """

    method: str
    store: Store
    factors: Mapping[str, Handle[SharedTensors]]
    damping_scale: float
    damping: float | None
    n_tokens: int
    n_sequences: int

    def solver(self, replica: Replica, name: str) -> Solver:
        """The operator of one module, on a replica's device."""
        shape = replica.shapes[name]
        factors = None
        if self.factors:
            sides = self.factors[f"inputs/{shape.source}"], self.factors[f"outputs/{name}"]
            factors = ModuleFactors.from_tensors(
                {part: t.to(replica.device) for side in sides for part, t in side.get().items()}
            )
        fitted = Fitted(
            name,
            shape.bias,
            factors,
            self.n_tokens,
            self.n_sequences,
            self.damping_scale,
            self.damping,
        )
        return solver(self.method, fitted)


#: A query and the places of the methods that lack it.
Unsolved = tuple[EncodedQuery, tuple[int, ...]]


@dataclass
class QueryJob:
    """Gradients of some queries, preconditioned by each method that lacks them.

    A module's factors are on the device while that module is solved for all of them.
    """

    methods: Sequence[MethodOperands]
    rank: int | None
    stage: ClassVar[str] = stage_names.QUERIES

    def prepare(self, replica: Replica) -> None:
        """Nothing."""

    def run(self, replica: Replica, item: Sequence[Unsolved], watch: Watch) -> None:
        """Do some queries, and commit each for the methods at its places."""
        first, last = item[0][0].query.query_id, item[-1][0].query.query_id
        several = f"queries {first!r} to {last!r}"
        begin_or_refuse(watch, f"query {first!r}" if len(item) == 1 else several)
        found = [query_gradient(replica, query) for query, _ in item]
        tensors: dict[tuple[int, int], dict[str, Tensor]] = {}
        damping: dict[int, dict[str, float]] = {}
        for name in replica.shapes:
            for method in sorted({method for _, methods in item for method in methods}):
                of_module = self.methods[method].solver(replica, name)
                if of_module.damping is not None:
                    damping.setdefault(method, {})[name] = of_module.damping
                inverse = of_module.inverse()
                for place, (query, methods) in enumerate(item):
                    if method not in methods:
                        continue
                    seed = int(query.digest[:8], 16) ^ replica.numerics.seed
                    cut = self.rank and partial(low_rank, rank=self.rank, seed=seed)
                    parts = inverse.of_tokens(*found[place].tokens[name], cut or None)
                    tensors.setdefault((place, method), {}).update(
                        {f"{name}/{part}": tensor.cpu() for part, tensor in parts.items()}
                    )
        for (place, method), solved in tensors.items():
            query = item[place][0]
            header = {
                "query": query.digest,
                "log_probabilities": found[place].log_probabilities,
                "ranks": found[place].ranks,
                "damping": damping.get(method, {}),
            }
            write_tensors(self.methods[method].store, query_key(query.digest), solved, header)
        watch.advance(sum(len(query.tokens) for query, _ in item))
