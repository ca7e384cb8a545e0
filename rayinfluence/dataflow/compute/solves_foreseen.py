"""What solves take, by counted operations and bytes: a plan says it, and work is dealt by it.

Solves of queries in blocks, as `stages/refine.py` deals them; pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

from rayinfluence.curvature.iterative.explicit import COLUMNS
from rayinfluence.curvature.iterative.solvers import IterativeSolver

#: Operations of a product per token and weight: what directions share, the forward and the first
#: backward pass with gradients of weights, and each one's own two.
_SHARED, _OWN = 6, 8
#: Bytes of vectors that a block of queries keeps at once, and vectors of a query: its gradient,
#: solution, residual and direction, a product and its sum in float64.
_BYTES = {"cpu": 1 << 31, "cuda": 1 << 35}
_VECTORS, _NUMBER = 8, 4
#: How many operations a second a device makes at the least; a solve of fewer seconds is not shared.
_RATE = {"cpu": 2e10, "cuda": 2e13}
_SECONDS = 60


def product_operations(n_tokens: int, n_weights: int, n_directions: int) -> int:
    """Of one pass over some tokens, for products with some directions together."""
    return (_SHARED + _OWN * n_directions) * n_tokens * n_weights


def solved_at_once(n_weights: int, device: str) -> int:
    """Subjects of a block: as many as fit."""
    return max(1, _BYTES[device] // (_VECTORS * _NUMBER * n_weights))


def is_shared(
    solver: IterativeSolver,
    n_subjects: int,
    n_tokens: int,
    n_weights: int,
    most_actors: int,
    device: str,
) -> bool:
    """Whether products are dealt to replicas lane by lane, as half of them had no work else.

    By counted operations: of a short solve turns would take longer than products. Bits are the same
    either way.

    Args:
        solver: which.
        n_subjects: that are to be solved for.
        n_tokens: that products of a subject are made of, in all passes.
        n_weights: that are tracked.
        most_actors: replicas that there may be.
        device: theirs.
    """
    operations = product_operations(n_tokens, n_weights, 1)
    is_long = operations >= _SECONDS * _RATE[device]
    return is_long and solver.takes_all and 2 * n_subjects <= most_actors


@dataclass(frozen=True)
class ForeseenSolves:
    """What there is to be solved, with all steps that a solver may take.

    Attributes:
        solver: with its settings.
        n_banks: that have refined queries: one of each damping.
        n_queries: of each.
        n_weights: that are tracked.
        n_tokens, n_lanes: of the sample that products are made of.
        device: of the replicas.
    """

    solver: IterativeSolver
    n_banks: int
    n_queries: int
    n_weights: int
    n_tokens: int
    n_lanes: int
    device: str

    def operations(self, actors: int) -> float:
        """Of the actor that has the most of them, of so many."""
        each = self._operations(self.solver.passes(self.n_lanes), self.n_queries, 1, actors)
        once = 0.0
        if self.solver.preparation():
            passes = self.solver.passes_before(self.n_weights)
            together = COLUMNS if self.solver.name == "explicit" else 1
            once = self._operations(passes, 1, together, actors)
        return self.n_banks * (each + once)

    def _operations(self, passes: float, n_subjects: int, together: int, actors: int) -> float:
        """Of so many passes for each of some subjects, that ask for some directions together."""
        told = self.solver, n_subjects, int(passes * self.n_tokens), self.n_weights
        if is_shared(*told, actors, self.device):
            size, share = self.block(n_subjects, 1), -(-self.n_lanes // actors) / self.n_lanes
            rounds = -(-n_subjects // size)
        else:
            size, share = self.block(n_subjects, actors), 1.0
            rounds = -(-n_subjects // (size * actors))
        a_pass = product_operations(self.n_tokens, self.n_weights, size * together) / together
        return rounds * share * passes * a_pass

    def block(self, n_subjects: int, actors: int) -> int:
        """How many of some subjects one actor solves for together."""
        return min(solved_at_once(self.n_weights, self.device), -(-n_subjects // actors))

    def block_bytes(self, n_weights: int) -> int:
        """Vectors of a block, of so many of the weights."""
        size = min(solved_at_once(self.n_weights, self.device), self.n_queries)
        return _VECTORS * _NUMBER * size * n_weights

    @property
    def stored_bytes(self) -> int:
        """Of solutions at full rank."""
        return self.n_banks * self.n_queries * self.n_weights * _NUMBER
