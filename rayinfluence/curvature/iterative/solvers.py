"""The solvers by their names: what each prepares once, and what it does for each gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rayinfluence.curvature.iterative.arnoldi import InKrylovSpace, KrylovSpace
from rayinfluence.curvature.iterative.cg import ConjugateGradients, not_positive
from rayinfluence.curvature.iterative.explicit import Columns, Explicit
from rayinfluence.curvature.iterative.largest import STEPS, Largest
from rayinfluence.curvature.iterative.measure import Measure
from rayinfluence.curvature.iterative.neumann import Neumann
from rayinfluence.curvature.iterative.system import (
    Metric,
    Phase,
    State,
    System,
    advance,
    begin,
    wanted,
)
from rayinfluence.curvature.iterative.vectors import Vectors, norm, times

#: Makes products G v of some directions, over a part of the sample or all of it.
Products = Callable[[Sequence[Vectors], int | None], list[Vectors]]
#: The C of each series.
_SERIES: dict[str, Metric] = {"astra": "ekfac", "lissa": "identity", "unrolled": "sizes"}


@dataclass(frozen=True)
class IterativeSolver:
    """A solver with its settings.

    Attributes:
        name: ``explicit``, ``cg``, ``pcg``, ``astra``, ``lissa``, ``arnoldi`` or ``unrolled``.
        steps: products of a gradient at most; of Arnoldi the dimension of the space.
        tolerance: of the relative residual, at which conjugate gradients end.
        scale: of a Neumann series; None is measured.
        repeats: of LiSSA.
    """

    name: str
    steps: int
    tolerance: float = 1e-2
    scale: float | None = None
    repeats: int = 1

    def preparation(self) -> tuple[Phase, ...]:
        """What is made once for all gradients; nothing by solvers that need nothing.

        Its state begins with a vector ``gradient`` that says which modules there are.
        """
        if self.name == "explicit":
            return (Columns(),)
        if self.name == "arnoldi":
            return (KrylovSpace(self.steps),)
        if self.name in _SERIES and self.scale is None:
            return (Largest(_SERIES[self.name]),)
        return ()

    @property
    def is_damped(self) -> bool:
        """Whether it solves with lambda; steps that end before the solution need none."""
        return self.name != "unrolled"

    @property
    def takes_all(self) -> bool:
        """Whether each product is of all of the sample, and not of a part of it."""
        return self.name not in _SERIES

    def passes(self, n_parts: int) -> float:
        """Over the sample, of a gradient at most; with a residual at both ends."""
        if self.name in ("cg", "pcg"):
            return self.steps + 2
        return 2 + self.steps * self.repeats / n_parts if self.name in _SERIES else 2

    def passes_before(self, n_weights: int) -> float:
        """Of what is made once for all gradients, at most."""
        if self.name == "explicit":
            return n_weights
        return min(self.steps, n_weights) if self.name == "arnoldi" else STEPS

    def phases(self, system: System, prepared: State | None) -> tuple[Phase, ...]:
        """What is done for each gradient, between residuals of EK-FAC's solution and its own.

        Args:
            system: what is solved.
            prepared: what was made once.
        """
        return Measure(first=True), self._solving(system, prepared), Measure()

    def _solving(self, system: System, prepared: State | None) -> Phase:
        if self.name in ("cg", "pcg"):
            return ConjugateGradients(self.name == "pcg", self.steps, self.tolerance)
        if self.name in _SERIES:
            scale = self.scale
            if scale is None:
                assert prepared is not None
                scale = prepared.numbers["largest"]
                if not scale > 0:
                    raise not_positive(scale)
            is_measured = self.scale is None
            metric = _SERIES[self.name]
            return Neumann(self.name, metric, self.steps, scale, self.repeats, is_measured)
        assert prepared is not None
        if self.name == "arnoldi":
            return InKrylovSpace(prepared)
        return Explicit(system, prepared)


def run(system: System, phases: Sequence[Phase], state: State, products: Products) -> State:
    """Go on from a state to the end, with products that are made here."""
    while (asked := wanted(system, phases, state)) is not None:
        state = advance(system, phases, state, products(asked.directions, asked.part))
    return state


def solve(
    solver: IterativeSolver, system: System, gradients: Sequence[Vectors], products: Products
) -> list[State]:
    """Solve for some gradients, one after another.

    Args:
        solver: which.
        system: what is solved.
        gradients: v, by module.
        products: of G.

    Returns:
        Of each a state with the vector ``solution``, its history and its steps.
    """
    prepared = None
    if phases := solver.preparation():
        like = State().vectors(gradient=gradients[0])
        prepared = run(system, phases, begin(system, phases, like), products)
    phases = solver.phases(system, prepared)
    return [run(system, phases, started(system, phases, one), products) for one in gradients]


def started(system: System, phases: Sequence[Phase], gradient: Vectors) -> State:
    """The first state of a gradient; where it is zero, so is its solution, and nothing is left."""
    state = State().vectors(gradient=gradient)
    if norm(gradient):
        return begin(system, phases, state)
    return State(
        state.vectors(solution=times(0.0, gradient)).tensors, history=(0.0, 0.0), phase=len(phases)
    )
