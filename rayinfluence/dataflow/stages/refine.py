"""Refining: queries of EK-FAC are brought nearer to (G + lambda I)^-1 grad f_q by a solver.

Between queries and banks, so that the scan knows nothing of it. The sample is copied to where
workers read all of it; what a solver makes once for all queries comes first; then queries are
solved in blocks, which share the passes of their products, or a few of them in turns, which all
replicas share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rayinfluence.config_solver import SolverConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow import stage_names
from rayinfluence.dataflow.compute.refining import lane_count
from rayinfluence.dataflow.compute.solves_foreseen import is_shared, solved_at_once
from rayinfluence.dataflow.jobs.query import MethodOperands
from rayinfluence.dataflow.jobs.refine import RefineJob
from rayinfluence.dataflow.jobs.sample_rows import CopySample, SampleRows
from rayinfluence.dataflow.jobs.solving import SolverOperands, Subject
from rayinfluence.dataflow.runners.base import Runner
from rayinfluence.dataflow.stages.ensure import Lacking, Place, Stage, ensure
from rayinfluence.dataflow.stages.progress import ProgressLog, StageProgress
from rayinfluence.dataflow.stages.queries import MethodQueries, query_report
from rayinfluence.dataflow.stages.turns import in_turns
from rayinfluence.errors import NumericsError
from rayinfluence.methods.registry import asked
from rayinfluence.model.modules import ModuleShape
from rayinfluence.storage.store import Store

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
        ours = SolverOperands(
            refinement.solver,
            refinement.settings.curvature,
            operands,
            rank,
            tuple(piece.key for piece in pieces),
            lane_count(len(refinement.ids)),
            self.seconds,
        )

        def places(subject: Subject) -> list[Place]:
            at_full_rank = [Place(whole, subject.key)]
            return at_full_rank + [Place(method.store, subject.key)] * (subject.query is not None)

        def copy(lacking: Sequence[Lacking[SampleRows]], told: StageProgress) -> Iterator[Any]:
            small = refinement.n_tokens <= _FEW_TOKENS
            items = [one.item for one in lacking]
            return self.runner.tasks(CopySample(self.corpus, whole), items, small)

        def solving(some: Sequence[Subject], is_prepared: bool, passes: float) -> Stage[Subject]:
            tokens = int(passes * refinement.n_tokens)
            at_once = solved_at_once(self._n_weights, self.device)

            def solve(lacking: Sequence[Lacking[Subject]], told: StageProgress) -> Iterator[Any]:
                left = [one.item for one in lacking]
                n_weights, most = self._n_weights, self.most_actors
                if is_shared(ours.solver, len(left), tokens, n_weights, most, self.device):
                    done = partial(_is_done, places)
                    blocks = _cut(left, at_once)
                    return in_turns(self.runner, ours, is_prepared, blocks, done, told.advance)
                # Something for all replicas; company changes no bit of a query.
                size = min(at_once, -(-len(left) // most))
                job = RefineJob(ours, is_prepared)
                return self.runner.replicas(job, _cut(left, size), told.advance)

            return Stage(stage_names.REFINE, some, places, solve, n_tokens=lambda _: tokens)

        queries_stage = solving(subjects, True, ours.solver.passes(ours.n_lanes))
        if not queries_stage.lacking():
            return
        rows = Stage(stage_names.REFINE, pieces, lambda one: [Place(whole, one.key)], copy)
        ensure(rows, self.progress)
        try:
            if ours.solver.preparation():
                once = ours.solver.passes_before(self._n_weights)
                ensure(solving([Subject()], False, once), self.progress)
            ensure(queries_stage, self.progress)
        except NumericsError as error:
            raise NumericsError(in_section(str(error), refinement.key)) from error

    @property
    def _n_weights(self) -> int:
        return sum(shape.d_out * shape.columns for shape in self.shapes.values())


def in_section(text: str, key: str) -> str:
    """What a solver says, which knows its settings and not where they are, by whole keys.

    Args:
        text: begins with "solver: " where a solver said it, and has its settings in backticks.
        key: of its settings, in the section of the scan.
    """
    if not text.startswith("solver: "):
        return text
    text = f"scan.{key}: {text.removeprefix('solver: ')}"
    for name in SolverConfig.model_fields:
        text = text.replace(f"`{name}:", f"`scan.{key}.{name}:")
        text = text.replace(f"`{name}`", f"`scan.{key}.{name}`")
    return text


def _cut(subjects: Sequence[Subject], size: int) -> list[Sequence[Subject]]:
    return [subjects[start : start + size] for start in range(0, len(subjects), size)]


def _is_done(places: Callable[[Subject], Sequence[Place]], subject: Subject) -> bool:
    return all(place.store.exists(place.key) for place in places(subject))


def solver_report(method: MethodQueries, queries: Sequence[EncodedQuery]) -> dict[str, Any]:
    """What the manifest says of a solver, and of each query: residuals, steps, and what is lost.

    ``residual_before`` is of EK-FAC's solution. Steps of a training are not there to converge.
    """
    assert method.refinement is not None
    settings, found = method.refinement.parts, {}
    for query in asked(method.method, queries):
        refined = query_report(method, query)["refined"]
        found[query.query.query_id] = {
            "residual_before": refined["history"][0],
            "residual": refined["history"][-1],
            "converged": refined["history"][-1] <= settings["tolerance"]
            if method.refinement.solver.is_damped
            else None,
            "steps": refined["steps"],
            "passes": refined["passes"],
            "lost_by_rank": refined["lost_by_rank"],
        }
    return {**settings, "queries": found}


def residual_warning(solver: Mapping[str, Any], key: str) -> str | None:
    """What to warn of: queries whose residual is above the tolerance.

    Args:
        solver: as it is reported.
        key: of its settings, in the section of the scan.
    """
    above = {name: one for name, one in solver["queries"].items() if one["converged"] is False}
    if not above:
        return None
    worst = max(above, key=lambda name: float(above[name]["residual"]))
    said = above[worst]
    return (
        f"scan.{key}: {solver['name']} left a residual above {solver['tolerance']:g} of "
        f"{len(above)} of {len(solver['queries'])} queries, the largest of {worst!r}: "
        f"{said['residual']:.2g} after {said['steps']} steps, and {said['residual_before']:.2g} of "
        "EK-FAC before. Allow more steps, or read these scores as those of a rougher solution."
    )
