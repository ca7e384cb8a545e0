"""The job of refining: solves of a block of queries, or of what a solver makes once for all.

Picklable; no Ray. A solve is a sequence of states; the last one that was kept is gone on from.
Doing an item twice writes the same bytes under the same keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import Split, read_rows
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.curvature.iterative.solvers import Solver, started
from rayinfluence.curvature.iterative.system import (
    Phase,
    State,
    Wanted,
    advance,
    begin,
    wanted,
)
from rayinfluence.curvature.iterative.vectors import Vectors
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.refining import Refining, dealt, lost_share
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.dataflow.jobs.checkpoint import Pace
from rayinfluence.dataflow.jobs.query import MethodOperands, cut_of, query_header
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse, enter_phase
from rayinfluence.dataflow.layout import checkpoint_key, prepared_key, query_key
from rayinfluence.errors import DamagedError
from rayinfluence.model.curvature_products import Curvature
from rayinfluence.storage.pieces import read_if_whole, read_piece, write_piece
from rayinfluence.storage.store import Store
from rayinfluence.storage.tensors import read_tensors, write_tensors


@dataclass(frozen=True)
class SampleRows:
    """Some rows of the sample: where they go, and splits with the ids of those."""

    key: str
    rows: tuple[tuple[Split, tuple[int, ...]], ...]


@dataclass(frozen=True)
class CopySample:
    """Copies rows of the sample to where workers read all of them, or finds them there."""

    corpus: Store
    store: Store

    def __call__(self, item: SampleRows) -> str:
        """See that a piece is there; returns where."""
        if read_if_whole(self.store, item.key) is None:
            rows = [read_rows(self.corpus, split, ids) for split, ids in item.rows]
            write_piece(self.store, item.key, pa.concat_tables(rows))
        return item.key


@dataclass(frozen=True)
class Subject:
    """What is solved for: a query, or what a solver makes once for all of them."""

    query: EncodedQuery | None = None

    @property
    def key(self) -> str:
        """Where it is committed, at full rank."""
        return prepared_key() if self.query is None else query_key(self.query.digest)

    @property
    def name(self) -> str:
        """In messages."""
        return "what it makes once" if self.query is None else repr(self.query.query.query_id)


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

    solver: Solver
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
        return Refining(replica, operators, lanes, self.curvature)


@dataclass
class RefineJob:
    """Solve for some subjects, whose products are made together.

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

    def run(self, replica: Replica, item: Sequence[Subject], watch: Watch) -> None:
        """Do some subjects, and commit each."""
        left = [subject for subject in item if not self._is_cut_again(subject, replica)]
        states = [self._begun(replica, subject) for subject in left]
        if not left:
            return
        steps = min(state.steps for state in states)
        which = left[0].name if len(left) == 1 else f"{left[0].name} to {left[-1].name}"
        begin_or_refuse(watch, f"refining {which} by {self.operands.solver.name} from step {steps}")
        pace = Pace(self.operands.seconds)

        def keep() -> None:
            for subject, state in zip(left, states, strict=True):
                enter_phase("checkpoint", subject.key)
                place = checkpoint_key(subject.key)
                write_tensors(self.operands.store, place, state.tensors, state.header())

        while asked := {
            place: one for place, state in enumerate(states) if (one := self._wanted(state))
        }:
            for part in dict.fromkeys(one.part for one in asked.values()):
                some = {place: one for place, one in asked.items() if one.part == part}
                products = self._products(list(some.values()), part, watch)
                for (place, _), ours in zip(some.items(), products, strict=True):
                    states[place] = self._advanced(states[place], ours)
            pace.keep(keep)
        for subject, state in zip(left, states, strict=True):
            self._commit(replica, subject, state)

    @property
    def _work(self) -> Refining:
        assert self._refining is not None  # it has been prepared
        return self._refining

    def _wanted(self, state: State) -> Wanted | None:
        return wanted(self._work.system, self._phases, state)

    def _advanced(self, state: State, products: Sequence[Vectors]) -> State:
        return advance(self._work.system, self._phases, state, products)

    def _products(
        self, asked: Sequence[Wanted], part: int | None, watch: Watch
    ) -> list[list[Vectors]]:
        """What several solves want of one part of the sample, made together."""
        directions = [vector for one in asked for vector in one.directions]
        lanes = self._work.lanes_of(part)
        sums = (self._work.lane_sums(lane, directions, watch.advance) for lane in lanes)
        found = iter(self._work.products(sums, len(directions)))
        return [[next(found) for _ in one.directions] for one in asked]

    def _begun(self, replica: Replica, subject: Subject) -> State:
        """Where a solve stands, by its checkpoint, or where it begins."""
        store, place = self.operands.store, checkpoint_key(subject.key)
        if store.exists(place):
            try:
                return self._work.here(State.stored(*read_tensors(store, place)))
            except DamagedError:
                pass  # it is begun anew
        if subject.query is None:
            like = State().vectors(gradient=self._work.zeros())
            return begin(self._work.system, self._phases, like)
        gradient = self._work.gradient(query_gradient(replica, subject.query))
        return started(self._work.system, self._phases, gradient)

    def _commit(self, replica: Replica, subject: Subject, state: State) -> None:
        """A solution at full rank, then what is scanned with; what was kept meanwhile goes."""
        ours = self.operands
        if subject.query is None:
            write_tensors(ours.store, subject.key, state.tensors, state.header())
        else:
            whole = self._work.whole(state.vector("solution"))
            header = {
                **query_header(
                    subject.query, query_gradient(replica, subject.query), self._work.damping
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

    def _is_cut_again(self, subject: Subject, replica: Replica) -> bool:
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
