"""Solving, as jobs have in common: what is solved for, where it stands, and what is committed.

Picklable; no Ray. A solve is a sequence of states; the last one that was kept is gone on from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.curvature.iterative.solvers import IterativeSolver, started
from rayinfluence.curvature.iterative.system import Phase, State, Wanted, advance, begin, wanted
from rayinfluence.curvature.iterative.vectors import Vectors
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.refining import Refining, dealt, lost_share
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.dataflow.jobs.query import MethodOperands, cut_of, query_header
from rayinfluence.dataflow.jobs.watch import enter_phase
from rayinfluence.dataflow.layout import checkpoint_key, named, prepared_key, query_key
from rayinfluence.errors import DamagedError
from rayinfluence.model.curvature_products import Curvature
from rayinfluence.storage.pieces import read_piece
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class Subject:
    """What is solved for: a query, or what a solver makes once for all of them."""

    query: EncodedQuery | None = None

    @property
    def key(self) -> str:
        """Where it is committed, at full rank."""
        return prepared_key() if self.query is None else query_key(self.query.digest)

    @property
    def digest(self) -> str:
        """What it is called by in keys."""
        return named(self.key)

    @property
    def name(self) -> str:
        """In messages."""
        return "what it makes once" if self.query is None else repr(self.query.query.query_id)


def names_of(subjects: Sequence[Subject]) -> str:
    """Some subjects, for messages."""
    first, last = subjects[0].name, subjects[-1].name
    return first if len(subjects) == 1 else f"{first} to {last}"


@dataclass(frozen=True)
class SolverOperands:
    """A solver with what it works on.

    Attributes:
        solver: which, with its settings.
        curvature: that products are of.
        method: whose queries are refined, with EK-FAC and the places of what is made.
        rank: that queries are cut to.
        sample: pieces of rows.
        n_lanes: that they are dealt to.
        seconds: least time between two checkpoints.
    """

    solver: IterativeSolver
    curvature: Curvature
    method: MethodOperands
    rank: int | None
    sample: tuple[str, ...]
    n_lanes: int
    seconds: float

    @property
    def store(self) -> Store:
        """Of sample, states and solutions."""
        assert self.method.whole is not None
        return self.method.whole

    def refining(self, replica: Replica) -> Refining:
        """All that solves need, on a replica."""
        pieces = [read_piece(self.store, key) for key in self.sample]
        lanes = dealt(pa.concat_tables(pieces), self.n_lanes, replica.numerics.seed)
        operators: dict[str, EKFAC] = {}
        for name in replica.shapes:
            operator = self.method.solver(replica, name)
            assert isinstance(operator, EKFAC)
            operators[name] = operator
        return Refining(replica, operators, lanes, self.curvature, self.solver.is_damped)


@dataclass
class Solving:
    """A solver on a replica.

    Attributes:
        operands: of the solver.
        is_prepared: whether what the solver makes once is there.
    """

    operands: SolverOperands
    is_prepared: bool
    stage: ClassVar[str] = stage_names.REFINE
    _refining: Refining | None = None
    _phases: Sequence[Phase] = ()

    def prepare(self, replica: Replica) -> None:
        """Read the sample and what was made once."""
        ours = self.operands
        self._refining = ours.refining(replica)
        if not self.is_prepared:
            self._phases = ours.solver.preparation()
            return
        prepared = None
        if ours.solver.preparation():
            prepared = self._refining.here(State.stored(*read_tensors(ours.store, prepared_key())))
        self._phases = ours.solver.phases(self._refining.system, prepared)

    @property
    def work(self) -> Refining:
        """All that solves need."""
        assert self._refining is not None  # it has been prepared
        return self._refining

    def wanted(self, state: State) -> Wanted | None:
        """The products that a solve goes on with; None at its end."""
        return wanted(self.work.system, self._phases, state)

    def advanced(self, state: State, products: Sequence[Vectors]) -> State:
        """What follows from them."""
        return advance(self.work.system, self._phases, state, products)

    def begun(self, replica: Replica, subject: Subject) -> State:
        """Where a solve stands, by what was kept of it, or where it begins."""
        store, place = self.operands.store, checkpoint_key(subject.key)
        if store.exists(place):
            try:
                return self.work.here(State.stored(*read_tensors(store, place)))
            except DamagedError:
                pass  # it is begun anew
        if subject.query is None:
            like = State().vectors(gradient=self.work.zeros())
            return begin(self.work.system, self._phases, like)
        gradient = self.work.gradient(query_gradient(replica, subject.query))
        return started(self.work.system, self._phases, gradient)

    def keep(self, subject: Subject, state: State) -> None:
        """Keep where a solve stands, so that it can be gone on from."""
        enter_phase("checkpoint", subject.key)
        place = checkpoint_key(subject.key)
        write_tensors(self.operands.store, place, state.tensors, state.header())

    def commit(self, replica: Replica, subject: Subject, state: State) -> None:
        """A solution at full rank, then what is scanned with; what was kept meanwhile goes."""
        ours = self.operands
        if subject.query is None:
            write_tensors(ours.store, subject.key, state.tensors, state.header())
        else:
            whole = self.work.whole(state.vector("solution"))
            header = {
                **query_header(
                    subject.query, query_gradient(replica, subject.query), self.work.damping
                ),
                "refined": {
                    "history": list(state.history),
                    "steps": state.steps,
                    "passes": state.passes,
                },
            }
            dense = {f"{name}/dense": one for name, one in whole.items()}
            write_tensors(ours.store, subject.key, dense, header)
            self._cut(subject.query, whole, header, replica)
        ours.store.delete(checkpoint_key(subject.key))

    def is_cut_again(self, replica: Replica, subject: Subject) -> bool:
        """Whether a solution is there, of which no more was missing than what is scanned with."""
        if subject.query is None or not self.operands.store.exists(subject.key):
            return False
        try:
            tensors, header = read_tensors(self.operands.store, subject.key)
        except DamagedError:
            return False
        whole = {key.removesuffix("/dense"): tensor for key, tensor in tensors.items()}
        devices = replica.devices
        whole = {name: tensor.to(devices[name]) for name, tensor in whole.items()}
        self._cut(subject.query, whole, header, replica)
        return True

    def _cut(
        self, query: EncodedQuery, whole: Vectors, header: dict[str, Any], replica: Replica
    ) -> None:
        """Commit what is scanned with, and the share of the norm that this lacks."""
        ours = self.operands
        cut: dict[str, Tensor] = {}
        for name, one in whole.items():
            if ours.rank is None:
                cut[f"{name}/dense"] = one
            else:
                to_rank = cut_of(query, ours.rank, replica.numerics.seed)
                cut[f"{name}/left"], cut[f"{name}/right"] = to_rank(one)
        lost = 0.0 if ours.rank is None else lost_share(whole, cut)
        refined = {**header["refined"], "lost_by_rank": lost}
        write_tensors(
            ours.method.store, query_key(query.digest), cut, {**header, "refined": refined}
        )
