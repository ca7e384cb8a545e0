"""The largest eigenvalue of C^-1 (G_j + lambda I) of any part j: the scale of a series.

By power iteration on one part after another, each from where the last one ended. It is the same for
all gradients, and found once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayinfluence.curvature.iterative.system import Metric, State, System, Wanted
from rayinfluence.curvature.iterative.vectors import Vectors, inner, norm, random_like, times

#: Products with each part. The estimate is from below, and a series converges up to twice of it.
STEPS = 6


@dataclass(frozen=True)
class Largest:
    """Power iteration from a random vector on.

    Attributes:
        metric: C.
    """

    metric: Metric

    def begin(self, system: System, state: State) -> State:
        """A random vector of length 1; ``gradient`` says of which shapes."""
        drawn = random_like(state.vector("gradient"), system.seed, 0)
        state = state.vectors(direction=times(1 / norm(drawn), drawn)).without("gradient")
        return state.counted(largest=0.0)

    def wanted(self, system: System, state: State) -> Wanted | None:
        """G_j u."""
        part = state.steps // STEPS
        return None if part == system.n_parts else Wanted([state.vector("direction")], part)

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """The Rayleigh quotient, and the next vector."""
        direction = state.vector("direction")
        applied = system.damped(direction, products[0])
        metric = system.times_metric(self.metric, direction)
        quotient = inner(direction, applied) / inner(direction, metric)
        following = system.over_metric(self.metric, applied)
        # A part without curvature, undamped, says nothing of a direction: the last one stays.
        if length := norm(following):
            state = state.vectors(direction=times(1 / length, following))
        largest = max(quotient, state.numbers["largest"])
        return replace(state.counted(largest=largest), steps=state.steps + 1)
