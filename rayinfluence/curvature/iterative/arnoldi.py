"""Arnoldi: one Krylov space for all gradients, from a random vector on.

Source: Schioppa et al. 2022, who project gradients on it and drop the rest. Here the part of
EK-FAC's residual that lies in the space is solved for, x = x_0 + W (W^T A W)^-1 W^T (v - A x_0)
with A = G + lambda I: the rest stays as EK-FAC has it, so that no space makes the error longer in
the A-norm. At the dimension of all weights it is exact.

n step, D numbers of all weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rayinfluence.curvature.iterative.cg import not_positive
from rayinfluence.curvature.iterative.system import State, System, Wanted
from rayinfluence.curvature.iterative.vectors import (
    Vectors,
    inner,
    norm,
    plus,
    random_like,
    times,
)

#: Beside the first one, a vector so short is rounding, and the space has been used up.
_NOTHING = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True)
class KrylovSpace:
    """An orthonormal basis W and W^T A W, vector by vector, each made orthogonal to all others.

    Where A maps the space into itself, another random vector goes on: eigenvalues that occur
    several times need several.

    Attributes:
        steps: the dimension, at most that of all weights.
    """

    steps: int

    def begin(self, system: System, state: State) -> State:
        """The first vector; ``gradient`` says of which shapes."""
        like = state.vector("gradient")
        size = sum(one.numel() for one in like.values())
        drawn = random_like(like, system.seed, 0)
        projected = torch.zeros(0, 0, dtype=torch.float64)
        state = state.vectors(basis0=times(1 / norm(drawn), drawn)).without("gradient")
        state = state.counted(dimension=min(self.steps, size), first=0.0)
        return replace(state, tensors={**state.tensors, "projected": projected})

    def wanted(self, system: System, state: State) -> Wanted | None:
        """G w of the last vector."""
        if state.steps == state.numbers["dimension"]:
            return None
        return Wanted([state.vector(f"basis{state.steps}")])

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """A row of W^T A W, and the next vector."""
        n = state.steps
        basis = [state.vector(f"basis{place}") for place in range(n + 1)]
        applied = system.damped(basis[-1], products[0])
        row = torch.tensor([inner(one, applied) for one in basis], dtype=torch.float64)
        projected_nn = torch.zeros(n + 1, n + 1, dtype=torch.float64)
        projected_nn[:n, :n] = state.tensors["projected"]
        projected_nn[n] = projected_nn[:, n] = row
        first = state.numbers["first"] or norm(applied)
        state = state.counted(first=first)
        state = replace(state, steps=n + 1, tensors={**state.tensors, "projected": projected_nn})
        if n + 1 == state.numbers["dimension"]:
            return state
        following, number = _orthogonal(applied, basis), 0
        least = _NOTHING[next(iter(applied.values())).dtype] * first
        while norm(following) <= least:
            number += 1
            drawn = random_like(applied, system.seed, (n + 1) << 32 | number)
            following = _orthogonal(times(first / norm(drawn), drawn), basis)
        return state.vectors(**{f"basis{n + 1}": times(1 / norm(following), following)})


def _orthogonal(vector: Vectors, basis: Sequence[Vectors]) -> dict[str, Tensor]:
    """What of a vector is orthogonal to a basis; twice, as once leaves rounding behind."""
    found = dict(vector)
    for _ in range(2):
        for one in basis:
            found = plus(found, -inner(one, found), one)
    return found


@dataclass(frozen=True)
class InKrylovSpace:
    """Solves for what of the residual lies in a space that is there.

    Attributes:
        space: as :class:`KrylovSpace` left it.
    """

    space: State

    def begin(self, system: System, state: State) -> State:
        """All of it: no product is wanted.

        Raises:
            NumericsError: A is not positive in it.
        """
        projected_nn = self.space.tensors["projected"]
        values_n, vectors_nn = torch.linalg.eigh(projected_nn)
        if not float(values_n[0]) > 0:
            raise not_positive(float(values_n[0]))
        residual, solution = state.vector("residual"), state.vector("solution")
        basis = [self.space.vector(f"basis{place}") for place in range(self.space.steps)]
        along_n = torch.tensor([inner(one, residual) for one in basis], dtype=torch.float64)
        weights_n = vectors_nn @ ((vectors_nn.T @ along_n) / values_n)
        for weight, one in zip(weights_n.tolist(), basis, strict=True):
            solution = plus(solution, weight, {k: t.to(solution[k]) for k, t in one.items()})
        return replace(state.vectors(solution=solution), steps=self.space.steps)

    def wanted(self, system: System, state: State) -> Wanted | None:
        """Nothing."""
        return None

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """As it is."""
        return state
