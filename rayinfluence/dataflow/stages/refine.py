"""Refining: queries of EK-FAC are brought nearer to (G + lambda I)^-1 grad f_q by a solver.

Between queries and banks, so that the scan knows nothing of it. The sample is copied to where
workers read all of it; what a solver makes once for all queries comes first; then queries are
solved in blocks, which share the passes of their products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.refining import lane_count
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.jobs.refine import CopySample, RefineJob, SolverOperands, Subject
from rayinfluence.dataflow.layout import query_key
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.dataflow.stages.queries import MethodQueries, query_report
from rayinfluence.methods.registry import asked
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.store import Store

#: Bytes of vectors that a block of queries keeps at once, and vectors of a query: its gradient,
#: solution, residual and direction, a product and its sum in float64.
_BYTES = {"cpu": 1 << 31, "cuda": 1 << 35}
_VECTORS, _NUMBER = 8, 4
#: Tokens of a sample that are copied sooner than a process that does it starts.
_FEW_TOKENS = 1 << 20


@dataclass(frozen=True)
class Refine:
    """What refining needs.

    Attributes:
        runner: where it runs.
        corpus: with the rows of the sample.
        shapes: of the tracked modules.
        device: of the replicas.
        most_actors: replicas that there may be.
        seconds: least time between two checkpoints.
        progress: told of it.
    """

    runner: Runner
    corpus: Store
    shapes: Mapping[str, ModuleShape]
    device: str
    most_actors: int
    seconds: float
    progress: ProgressLog

    def run(
        self,
        method: MethodQueries,
        operands: MethodOperands,
        queries: Sequence[EncodedQuery],
        rank: int | None,
    ) -> None:
        """Refine every query that is not yet, and commit each.

        Args:
            method: whose queries they are.
            operands: with EK-FAC.
            queries: all of the run.
            rank: that they are cut to; None is whole.
        """
        refinement, whole = method.refinement, method.whole
        assert refinement is not None
        assert whole is not None
        # The same question may be asked under several ids.
        distinct = {query.digest: query for query in asked(method.method, queries)}
        subjects = [Subject(query) for query in distinct.values()]
        pieces = refinement.pieces()
        solver, n_lanes = refinement.solver, lane_count(len(refinement.ids))
        ours = SolverOperands(
            solver,
            refinement.settings.curvature,
            operands,
            rank,
            tuple(piece.key for piece in pieces),
            n_lanes,
            self.seconds,
        )

        def copy(lacking: Sequence[Lacking[Any]], told: StageProgress) -> Iterator[Any]:
            small = refinement.n_tokens <= _FEW_TOKENS
            items = [one.item for one in lacking]
            return self.runner.tasks(CopySample(self.corpus, whole), items, small)

        def prepare(lacking: Sequence[Lacking[Subject]], told: StageProgress) -> Iterator[Any]:
            job = RefineJob(ours, is_prepared=False)
            return self.runner.replicas(job, [[one.item] for one in lacking], told.advance)

        def solve(lacking: Sequence[Lacking[Subject]], told: StageProgress) -> Iterator[Any]:
            ensure(Stage(name, pieces, lambda one: [Place(whole, one.key)], copy), self.progress)
            if solver.preparation():
                once = Stage(name, [Subject()], lambda one: [Place(whole, one.key)], prepare)
                ensure(once, self.progress)
            job = RefineJob(ours, is_prepared=True)
            blocks = self._blocks([one.item for one in lacking])
            return self.runner.replicas(job, blocks, told.advance)

        def places(subject: Subject) -> list[Place]:
            assert subject.query is not None
            cut = Place(method.store, query_key(subject.query.digest))
            return [Place(whole, subject.key), cut]

        name = stage_names.REFINE
        tokens = int(refinement.n_tokens * solver.passes(n_lanes))
        ensure(Stage(name, subjects, places, solve, n_tokens=lambda _: tokens), self.progress)

    def _blocks(self, subjects: Sequence[Subject]) -> list[Sequence[Subject]]:
        """As many as fit, and no more than leave something for all replicas.

        How they are cut changes no bit of a query.
        """
        numbers = sum(shape.d_out * shape.columns for shape in self.shapes.values())
        fitting = max(1, _BYTES[self.device] // (_VECTORS * _NUMBER * numbers))
        size = min(fitting, -(-len(subjects) // self.most_actors))
        return [subjects[start : start + size] for start in range(0, len(subjects), size)]


def solver_report(method: MethodQueries, queries: Sequence[EncodedQuery]) -> dict[str, Any]:
    """What the manifest says of a solver, and of each query: residuals, steps, and what is lost.

    ``residual_before`` is of EK-FAC's solution.
    """
    assert method.refinement is not None
    settings, found = method.refinement.parts, {}
    for query in asked(method.method, queries):
        refined = query_report(method, query)["refined"]
        found[query.query.query_id] = {
            "residual_before": refined["history"][0],
            "residual": refined["history"][-1],
            "converged": refined["history"][-1] <= settings["tolerance"],
            "steps": refined["steps"],
            "passes": refined["passes"],
            "lost_by_rank": refined["lost_by_rank"],
        }
    return {**settings, "queries": found}


def residual_warning(solver: Mapping[str, Any]) -> str | None:
    """What to warn of: queries whose residual is above the tolerance."""
    above = {name: one for name, one in solver["queries"].items() if not one["converged"]}
    if not above:
        return None
    worst = max(above, key=lambda name: float(above[name]["residual"]))
    said = above[worst]
    return (
        f"scan.solver: {solver['name']} left a residual above {solver['tolerance']:g} of "
        f"{len(above)} of {len(solver['queries'])} queries, the largest of {worst!r}: "
        f"{said['residual']:.2g} after {said['steps']} steps, and {said['residual_before']:.2g} of "
        "EK-FAC before. Allow more steps, or read these scores as those of a rougher solution."
    )
