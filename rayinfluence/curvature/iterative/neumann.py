"""Stochastic Neumann series: LiSSA, ASTRA, and the steps of a training, gone back through.

x_j = x_(j-1) + C^-1 (v - (G_j + lambda I) x_(j-1)) / scale

with G_j the mean over one part of the sample, the parts in random order. LiSSA (Agarwal et al.
2017; Koh & Liang 2017, section 3) has C = I and begins at v / scale; several runs are averaged.
ASTRA (Wang et al. 2025) has EK-FAC as C and begins at its solution C^-1 v.

Both go on until x is the solution. The third ends before, without lambda: x_j is then the sum over
k <= j of (I - C^-1 G / scale)^k C^-1 v / scale, which is what j steps of a training by gradients do
with v, gone back through as if the weights had been all along where they are (unrolled
differentiation; Bae et al. 2024, TDA via approximate unrolled differentiation, whose segments this
has one of, and products of G in the place of EK-FAC). C is a size of each module, as AdamW divides
gradients by theirs.

Where 0 <= (G_j + lambda I) / scale <= 2 C, no step makes the C-norm of x longer than by that of
C^-1 v / scale. So a series that outgrows this has a scale that is too small, or a G that is not
positive: it is noticed, and ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from rayinfluence.curvature.iterative.system import Metric, State, System, Wanted
from rayinfluence.curvature.iterative.vectors import Vectors, inner, plus, times
from rayinfluence.errors import NumericsError

#: Rounding of a norm.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Neumann:
    """The series of one gradient.

    Attributes:
        name: for messages.
        metric: C.
        steps: of a run; its depth.
        scale: as above.
        repeats: runs that are averaged.
        is_measured: whether the scale was measured, and not set.
    """

    name: str
    metric: Metric
    steps: int
    scale: float
    repeats: int = 1
    is_measured: bool = False

    def begin(self, system: System, state: State) -> State:
        """C^-1 v of EK-FAC, else C^-1 v over the scale."""
        gradient = state.vector("gradient")
        first = self._first(system, gradient)
        conditioned = system.over_metric(self.metric, gradient)
        per_step = self._length(system, conditioned) / self.scale
        state = state.vectors(solution=first, sum=times(0.0, first))
        return state.counted(per_step=per_step, longest=self._length(system, first))

    def wanted(self, system: System, state: State) -> Wanted | None:
        """G_j x."""
        if state.steps == self.steps * self.repeats:
            return None
        return Wanted([state.vector("solution")], self._part(system, state.steps))

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """One step; at the end of a run the next one begins.

        Raises:
            NumericsError: the series diverges.
        """
        gradient, solution = state.vector("gradient"), state.vector("solution")
        misfit = plus(gradient, -1.0, system.damped(solution, products[0]))
        change = system.over_metric(self.metric, misfit)
        solution = plus(solution, 1 / self.scale, change)
        steps = state.steps + 1
        length, done = self._length(system, solution), steps % self.steps or self.steps
        longest = state.numbers["longest"] + done * state.numbers["per_step"]
        if not length <= longest * (1 + _ROUNDING):
            advice = "Raise `scale`, or leave it out and it is measured"
            if self.is_measured:
                advice = f"That was measured, by few steps; set `scale: {2 * self.scale:.2g}`"
            damp = "raise `scan.damping_scale`, or " if any(system.damping.values()) else ""
            raise NumericsError(
                f"solver: {self.name} diverges: at step {done} its sum has grown beyond what "
                f"a scale of {self.scale:.3g} allows where no curvature is above twice of it and "
                f"none is negative. {advice}; of a Hessian {damp}take `curvature: gauss_newton`."
            )
        state = replace(state, steps=steps)
        if done < self.steps:
            return state.vectors(solution=solution)
        total = plus(state.vector("sum"), 1.0, solution)
        if steps == self.steps * self.repeats:
            return state.vectors(solution=times(1 / self.repeats, total)).without("sum")
        return state.vectors(solution=self._first(system, gradient), sum=total)

    def _first(self, system: System, gradient: Vectors) -> dict[str, Tensor]:
        conditioned = system.over_metric(self.metric, gradient)
        return conditioned if self.metric == "ekfac" else times(1 / self.scale, conditioned)

    def _length(self, system: System, vector: Vectors) -> float:
        """The C-norm."""
        return math.sqrt(max(0.0, inner(vector, system.times_metric(self.metric, vector))))

    def _part(self, system: System, step: int) -> int:
        """Which part a step takes: all of them in random order, and again in another one."""
        run, within = divmod(step, self.steps)
        epoch, place = divmod(within, system.n_parts)
        key = np.random.Philox(key=[system.seed, run << 32 | epoch])
        return int(np.random.Generator(key).permutation(system.n_parts)[place])
