"""How far a solution is from solving anything: measured on the whole sample, at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rayinfluence.curvature.iterative.system import State, System, Wanted
from rayinfluence.curvature.iterative.vectors import Vectors, norm, plus
from rayinfluence.errors import NumericsError


@dataclass(frozen=True)
class Measure:
    """v - (G + lambda I) x of the solution so far, and its norm beside that of v.

    Attributes:
        first: it is EK-FAC's solution, which others begin from.
    """

    first: bool = False

    def begin(self, system: System, state: State) -> State:
        """EK-FAC's solution, if it is the first."""
        if self.first:
            state = state.vectors(solution=system.inverse(state.vector("gradient")))
        return state.counted(measured=0)

    def wanted(self, system: System, state: State) -> Wanted | None:
        """G x."""
        return None if state.numbers["measured"] else Wanted([state.vector("solution")])

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """The residual."""
        gradient, solution = state.vector("gradient"), state.vector("solution")
        residual = plus(gradient, -1.0, system.damped(solution, products[0]))
        return noted(state.vectors(residual=residual).counted(measured=1), residual)


def noted(state: State, residual: Vectors) -> State:
    """The state with the norm of a residual in its history.

    Raises:
        NumericsError: it is not finite.
    """
    length = norm(state.vector("gradient"))
    relative = norm(residual) / length if length else 0.0
    if not np.isfinite(relative):
        raise NumericsError(
            "solver: a residual is not finite: products of curvature overflow. Set `dtype: "
            "float32` or float64, or raise `scan.damping_scale`."
        )
    return replace(state, history=(*state.history, relative))
