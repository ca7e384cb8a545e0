"""The queries' job: what each method keeps of a query, committed.

By gradients: preconditioned and cut. By texts: terms and what they count. Of sequences by
themselves: the damping alone. By the last layer: what it sees of the query's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.query_forms import LOG_PROBABILITY
from rayinfluence.curvature.ekfac import ModuleFactors
from rayinfluence.curvature.solver import Cut, Solver
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.representer_queries import logits_of, query_points
from rayinfluence.dataflow.compute.scoring import QueryGradient, query_gradient
from rayinfluence.dataflow.compute.texts import TermCounts
from rayinfluence.dataflow.compute.unit_gradients import unit_gradient
from rayinfluence.dataflow.jobs.handles import Handle
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse
from rayinfluence.dataflow.layout import query_key
from rayinfluence.influence.bank import Itself, QueryBank
from rayinfluence.influence.lowrank import low_rank
from rayinfluence.influence.representers import RepresenterBank
from rayinfluence.methods.method import ITSELF, Curvature, Fitted
from rayinfluence.methods.registry import (
    GRADIENT_METHODS,
    LAST_LAYER_METHODS,
    SELF_METHODS,
    TEXT_METHODS,
    solving,
)
from rayinfluence.storage.shared import SharedTensors
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import write_tensors


@dataclass(frozen=True)
class SharedCurvature:
    """Factors where workers find them, and what belongs to them.

    Attributes:
        factors: of modules, as ``inputs/<source>`` and ``outputs/<module>``.
        n_tokens, n_sequences: that they were fitted on.
        damping_scale, damping: of the method; the second, where there is one, in the first's place.
        n_routed: of modules that get some of the tokens, how many.
    """

    factors: Mapping[str, Handle[SharedTensors]]
    n_tokens: int
    n_sequences: int
    damping_scale: float
    damping: float | None
    n_routed: Mapping[str, int] = field(default_factory=dict)

    def of_module(self, replica: Replica, name: str) -> Curvature:
        """That of one module, on its device."""
        source = replica.shapes[name].source
        sides = self.factors[f"inputs/{source}"], self.factors[f"outputs/{name}"]
        factors = ModuleFactors.from_tensors(
            {part: t.to(replica.devices[name]) for side in sides for part, t in side.get().items()}
        )
        n_rows = self.n_routed.get(name, self.n_tokens)
        return Curvature(factors, n_rows, self.n_sequences, self.damping_scale, self.damping)


@dataclass(frozen=True)
class MethodOperands:
    """What a method needs to make queries of its own, and where they are kept.

    Attributes:
        method: its name.
        name: what its results are called.
        store: of its queries.
        curvature: of all modules; None for methods that need none.
        counts: of the queries' terms, while there are queries to be made that need them.
        whole: where its queries are at full rank, if a solver refines them; others are made
            again where they are needed whole.
        last_layer: that was fitted again, of a method that reads what it sees.
    """

    method: str
    name: str
    store: Store
    curvature: SharedCurvature | None = None
    counts: TermCounts | None = None
    whole: Store | None = None
    last_layer: Handle[SharedTensors] | None = None

    @property
    def reads_texts(self) -> bool:
        """Whether it does without gradients."""
        return self.method in TEXT_METHODS

    @property
    def reads_itself(self) -> bool:
        """Whether each sequence is its own query."""
        return self.method in SELF_METHODS

    @property
    def reads_last_layer(self) -> bool:
        """Whether it reads what the last layer sees."""
        return self.method in LAST_LAYER_METHODS

    @property
    def reads_queries(self) -> bool:
        """Whether it has gradients of queries."""
        return self.method in GRADIENT_METHODS

    @property
    def has_solver(self) -> bool:
        """Whether it has a map of each module."""
        return self.reads_queries or self.reads_itself

    @property
    def has_parts(self) -> bool:
        """Whether parts of a query are made as all of it is.

        Of one that a solver refined each would take a solve of its own.
        """
        return self.reads_queries and self.whole is None

    @property
    def normalised(self) -> bool:
        """Whether its gradients are of length 1."""
        return self.reads_queries and GRADIENT_METHODS[self.method].normalised

    def solver(self, replica: Replica, name: str) -> Solver:
        """The operator of one module, on its device."""
        curvature = None if self.curvature is None else self.curvature.of_module(replica, name)
        fitted = Fitted(name, replica.shapes[name].bias, curvature)
        return solving(self.method).solver(fitted)

    def itself(self, replica: Replica) -> QueryBank:
        """The bank of a method that reads each sequence by itself: its solvers, on a device."""
        modules = {
            name: Itself(self.solver(replica, name).inverse(), shape.d_in)
            for name, shape in replica.shapes.items()
        }
        return QueryBank([ITSELF.digest], modules)

    def fitted(self) -> Mapping[str, Tensor]:
        """The last layer that was fitted again: ``weight``, ``residual``, ``l2``, ``n_points``."""
        assert self.last_layer is not None
        return self.last_layer.get()

    def representers(
        self, replica: Replica, digests: Sequence[str], tensors: Mapping[str, Tensor]
    ) -> RepresenterBank:
        """Some queries of a method that reads what the last layer sees, on that layer's device."""
        fitted, there = self.fitted(), replica.last_layer.layer.weight.device
        return RepresenterBank(
            digests,
            {part: tensor.to(there) for part, tensor in tensors.items()},
            fitted["weight"].to(there),
            float(fitted["l2"]),
            int(fitted["n_points"]),
        )


#: The gradient of no query.
_NONE = QueryGradient({}, [], [], 0.0)
#: A query and the places of the methods that lack it.
Unsolved = tuple[EncodedQuery, tuple[int, ...]]


def query_header(
    query: EncodedQuery, found: QueryGradient, damping: Mapping[str, float]
) -> dict[str, Any]:
    """What is said of a query beside its tensors: what the model thinks of it, and lambda."""
    return {
        "query": query.digest,
        "log_probabilities": found.log_probabilities,
        "ranks": found.ranks,
        **({} if query.measurement == LOG_PROBABILITY else {"value": found.value}),
        "damping": dict(damping),
    }


def cut_of(query: EncodedQuery, rank: int, seed: int) -> Cut:
    """What cuts the matrices of a query to a rank; its random numbers are the query's own."""
    return partial(low_rank, rank=rank, seed=int(query.digest[:8], 16) ^ seed)


@dataclass
class QueryJob:
    """Some queries by each method that lacks them; their gradients are made once.

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
        found = [
            _NONE if query.digest == ITSELF.digest else query_gradient(replica, query)
            for query, _ in item
        ]
        tensors, damping = self._solved(replica, item, found)
        for place, (query, lacking) in enumerate(item):
            for method in lacking:
                operands = self.methods[method]
                if operands.reads_texts:
                    assert operands.counts is not None
                    of_texts = TEXT_METHODS[operands.method]
                    tensors[place, method] = operands.counts.query(of_texts, query.terms)
                elif operands.reads_last_layer:
                    tensors[place, method] = query_points(replica, query)
        for (place, method), solved in tensors.items():
            query, operands = item[place][0], self.methods[method]
            header = query_header(query, found[place], damping.get(method, {}))
            if operands.reads_last_layer:
                header["logits"] = logits_of(replica, solved, operands.fitted())
            write_tensors(self.methods[method].store, query_key(query.digest), solved, header)
        watch.advance(sum(query.n_tokens for query, _ in item))

    def _solved(
        self, replica: Replica, item: Sequence[Unsolved], found: Sequence[QueryGradient]
    ) -> tuple[dict[tuple[int, int], dict[str, Tensor]], dict[int, dict[str, float]]]:
        """Preconditioned gradients by query and method, and lambda by method and module."""
        tensors: dict[tuple[int, int], dict[str, Tensor]] = {}
        damping: dict[int, dict[str, float]] = {}
        wanted = sorted({method for _, methods in item for method in methods})
        wanted = [method for method in wanted if self.methods[method].has_solver]
        units: Sequence[QueryGradient] = []
        if any(self.methods[method].normalised for method in wanted):
            units = [unit_gradient(one, replica.shapes) for one in found]
        for name in replica.shapes:
            for method in wanted:
                of_module = self.methods[method].solver(replica, name)
                if of_module.damping is not None:
                    damping.setdefault(method, {})[name] = of_module.damping
                inverse = of_module.inverse()
                gradients = units if self.methods[method].normalised else found
                for place, (query, methods) in enumerate(item):
                    if method not in methods:
                        continue
                    if self.methods[method].reads_itself:
                        tensors[place, method] = {}  # its factors are read where it scans
                        continue
                    cut = self.rank and cut_of(query, self.rank, replica.numerics.seed)
                    parts = inverse.of_tokens(*gradients[place].tokens[name], cut or None)
                    tensors.setdefault((place, method), {}).update(
                        {f"{name}/{part}": tensor.cpu() for part, tensor in parts.items()}
                    )
        return tensors, damping
