"""Explicit: the whole matrix G, made of its products with unit vectors, and a Cholesky solve.

For a few thousand weights, and as the reference of all others (Koh & Liang 2017, section 3).

D numbers of all weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rayinfluence.curvature.iterative.cg import not_positive
from rayinfluence.curvature.iterative.system import State, System, Wanted
from rayinfluence.curvature.iterative.vectors import Vectors, flat, unflat

#: Weights, at most: 200 MB.
MOST_WEIGHTS = 5_000
#: Columns whose products are made together.
COLUMNS = 64


@dataclass(frozen=True)
class Columns:
    """G [D, D] in float64, column by column."""

    def begin(self, system: System, state: State) -> State:
        """None yet; ``gradient`` says of which shapes."""
        size = len(flat(state.vector("gradient")))
        matrix_DD = torch.zeros(size, size, dtype=torch.float64)
        return replace(state, tensors={**state.tensors, "matrix": matrix_DD})

    def wanted(self, system: System, state: State) -> Wanted | None:
        """G with the next unit vectors."""
        size, like = len(state.tensors["matrix"]), state.vector("gradient")
        some = range(state.steps, min(state.steps + COLUMNS, size))
        units = (
            torch.zeros(size, dtype=torch.float64).index_fill(0, torch.tensor(place), 1.0)
            for place in some
        )
        return Wanted([unflat(unit_D, like) for unit_D in units]) if some else None

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """These columns."""
        matrix_DD, steps = state.tensors["matrix"].clone(), state.steps + len(products)
        matrix_DD[:, state.steps : steps] = torch.stack([flat(one).cpu() for one in products], 1)
        return replace(state, steps=steps, tensors={**state.tensors, "matrix": matrix_DD})


class Explicit:
    """Solves with a matrix that is there.

    Args:
        system: with the damping.
        matrix: as :class:`Columns` left it.

    Raises:
        NumericsError: G + lambda I is not positive.
    """

    def __init__(self, system: System, matrix: State) -> None:
        like = matrix.vector("gradient")
        self._factor_DD = cholesky(matrix.tensors["matrix"], system, like)

    def begin(self, system: System, state: State) -> State:
        """All of it: no product is wanted."""
        gradient = state.vector("gradient")
        solved_D1 = torch.cholesky_solve(flat(gradient).cpu()[:, None], self._factor_DD)
        return state.vectors(solution=unflat(solved_D1[:, 0], gradient))

    def wanted(self, system: System, state: State) -> Wanted | None:
        """Nothing."""
        return None

    def advance(self, system: System, state: State, products: Sequence[Vectors]) -> State:
        """As it is."""
        return state


def cholesky(matrix_DD: Tensor, system: System, like: Vectors) -> Tensor:
    """The Cholesky factor [D, D] of G + lambda I, G symmetrised.

    Args:
        matrix_DD: G.
        system: with lambda.
        like: a vector of the same modules.

    Raises:
        NumericsError: it is not positive.
    """
    lambdas = {name: torch.full_like(one, system.damping[name]) for name, one in like.items()}
    damped_DD = (matrix_DD + matrix_DD.T) / 2
    damped_DD.diagonal().add_(flat(lambdas).cpu())
    factored = torch.linalg.cholesky_ex(damped_DD)
    if int(factored.info):
        raise not_positive(float(torch.linalg.eigvalsh(damped_DD)[0]))
    factor_DD: Tensor = factored.L
    return factor_DD
