"""The job of refining: whole solves of a block of queries, or of what a solver makes once for all.

Picklable; no Ray. Doing an item twice writes the same bytes under the same keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayinfluence.curvature.iterative.system import Wanted
from rayinfluence.curvature.iterative.vectors import Vectors
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.jobs.checkpoint import Pace
from rayinfluence.dataflow.jobs.solving import Solving, Subject, names_of
from rayinfluence.dataflow.jobs.watch import Watch, begin_or_refuse


@dataclass
class RefineJob(Solving):
    """Solve for some subjects from beginning to end; their products are made together."""

    def run(self, replica: Replica, item: Sequence[Subject], watch: Watch) -> None:
        """Do some subjects, and commit each."""
        left = [subject for subject in item if not self.is_cut_again(replica, subject)]
        if not left:
            return
        states = [self.begun(replica, subject) for subject in left]
        steps = min(state.steps for state in states)
        solver = self.operands.solver.name
        begin_or_refuse(watch, f"refining {names_of(left)} by {solver} from step {steps} on")
        pace = Pace(self.operands.seconds)

        def keep() -> None:
            for subject, state in zip(left, states, strict=True):
                self.keep(subject, state)

        while asked := {
            place: one for place, state in enumerate(states) if (one := self.wanted(state))
        }:
            for part in dict.fromkeys(one.part for one in asked.values()):
                some = {place: one for place, one in asked.items() if one.part == part}
                products = self._products(list(some.values()), part, watch)
                for place, ours in zip(some, products, strict=True):
                    states[place] = self.advanced(states[place], ours)
            pace.keep(keep)
        for subject, state in zip(left, states, strict=True):
            self.commit(replica, subject, state)

    def _products(
        self, asked: Sequence[Wanted], part: int | None, watch: Watch
    ) -> list[list[Vectors]]:
        """What several solves want of one part of the sample, made together."""
        directions = [vector for one in asked for vector in one.directions]
        lanes = self.work.lanes_of(part)
        sums = (self.work.lane_sums(lane, directions, watch.advance) for lane in lanes)
        found = iter(self.work.products(sums, len(directions)))
        return [[next(found) for _ in one.directions] for one in asked]
