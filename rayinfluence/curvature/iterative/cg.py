"""Conjugate gradients, plain and preconditioned by EK-FAC, from EK-FAC's solution on.

Source: Hestenes & Stiefel 1952; Koh & Liang 2017, section 3, for influence. One pass over the
sample a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from rayinfluence.curvature.iterative.measure import noted
from rayinfluence.curvature.iterative.system import State, System, Wanted
from rayinfluence.curvature.iterative.vectors import Vectors, inner, plus, times
from rayinfluence.errors import NumericsError


@dataclass(frozen=True)
class ConjugateGradients:
    """Minimises <x, (G + lambda I) x> / 2 - <v, x> along conjugate directions.

    Attributes:
        preconditioned: by EK-FAC.
        steps: at most.
        tolerance: of the relative residual, at which it ends.
    """

    preconditioned: bool
    steps: int
    tolerance: float

    def begin(self, system: System, state: State) -> State:
        """The residual, preconditioned, is the first direction."""
        residual = state.vector("residual")
        direction = self._conditioned(system, residual)
        return state.vectors(direction=direction).counted(product=inner(residual, direction))

    def wanted(self, system: System, state: State) -> Wanted | None:
        """G p."""
        if state.steps >= self.steps or state.history[-1] <= self.tolerance:
            return None
        return Wanted([state.vector("direction")])

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """One step along the direction, and the next one.

        Raises:
            NumericsError: the curvature along it is not positive.
        """
        direction, residual = state.vector("direction"), state.vector("residual")
        applied = system.damped(direction, products[0])
        curvature = inner(direction, applied)
        if not curvature > 0:
            raise not_positive(curvature / inner(direction, direction), state.steps + 1)
        length = state.numbers["product"] / curvature
        solution = plus(state.vector("solution"), length, direction)
        residual = plus(residual, -length, applied)
        conditioned = self._conditioned(system, residual)
        product = inner(residual, conditioned)
        direction = plus(conditioned, product / state.numbers["product"], direction)
        state = state.vectors(solution=solution, residual=residual, direction=direction)
        return noted(replace(state.counted(product=product), steps=state.steps + 1), residual)

    def _conditioned(self, system: System, residual: Vectors) -> dict[str, Tensor]:
        if self.preconditioned:
            return system.inverse(residual)
        return times(1.0, residual)  # of its own: a state's vectors are stored one by one


def not_positive(curvature: float, step: int | None = None) -> NumericsError:
    """That G + lambda I is not positive, so that no minimum is its solution.

    Args:
        curvature: the lowest that was seen, along a vector of length 1.
        step: at which it was seen.
    """
    at = "" if step is None else f" (step {step})"
    return NumericsError(
        f"solver: G + lambda I has a curvature of {curvature:.3g} in some direction{at}, and "
        "an influence is defined where all are positive. Take `curvature: gauss_newton`, which has "
        f"no negative ones, or add more than {-curvature:.2g} to the lambda of every module "
        "(`scan.damping`, or a larger `scan.damping_scale`)."
    )
