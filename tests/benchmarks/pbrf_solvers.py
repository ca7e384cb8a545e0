"""Scores by solvers of the whole damped curvature, for the benchmark of responses.

Q query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.curvature.iterative.solvers import IterativeSolver, solve
from rayinfluence.curvature.iterative.system import System
from rayinfluence.curvature.iterative.vectors import Vectors
from rayinfluence.curvature.solver import Identity
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.influence.bank import DenseQueries, QueryBank
from rayinfluence.model.curvature_products import curvature_products

#: Parts that a sample is cut into, for solvers that take one after another.
_PARTS = 8


@dataclass(frozen=True)
class Solved:
    """Preconditioned queries.

    Attributes:
        bank: of them.
        residuals_Q: |v - (G + lambda I) x| / |v|.
        passes: over the sample, all queries together.
    """

    bank: QueryBank
    residuals_Q: list[float]
    passes: float


class Curvature:
    """The Gauss-Newton matrix of some rows, and EK-FAC's approximation of it.

    Args:
        replica: the model.
        table: rows that G is the mean over.
        solvers: EK-FAC by module, which says lambda.
    """

    def __init__(self, replica: Replica, table: pa.Table, solvers: dict[str, EKFAC]) -> None:
        self._replica = replica
        size = -(-len(table) // _PARTS)
        self._parts = [
            [
                (batch, replica.trained_on.targets(batch))
                for batch in replica.batches(table.slice(start, size), {})
            ]
            for start in range(0, len(table), size)
        ]
        inverses = {name: one.inverse() for name, one in solvers.items()}
        self.system = System(
            {name: one.damping for name, one in solvers.items()},
            lambda v: {name: solvers[name] @ one for name, one in v.items()},
            lambda v: {name: inverses[name] @ one for name, one in v.items()},
            len(self._parts),
        )

    def products(self, directions: Sequence[Vectors], part: int | None) -> list[Vectors]:
        """G v of each."""
        parts = self._parts if part is None else [self._parts[part]]
        sums: list[dict[str, Tensor]] = []
        n = 0
        for batch, targets in [one for of_part in parts for one in of_part]:
            told = self._replica.model, self._replica.modules, batch, targets, directions
            found = curvature_products(*told)
            n += len(batch.lengths_B)
            sums = (
                [{name: a[name] + b[name] for name in a} for a, b in zip(sums, found, strict=True)]
                if sums
                else found
            )
        return [{name: one / n for name, one in of.items()} for of in sums]

    def solved(self, solver: IterativeSolver, queries: Sequence[EncodedQuery]) -> Solved:
        """(G + lambda I)^-1 grad f of some queries."""
        gradients = []
        for query in queries:
            tokens = query_gradient(self._replica, query).tokens
            gradients.append(
                {
                    name: Identity(shape.bias).of_tokens(*tokens[name])["dense"]
                    for name, shape in self._replica.shapes.items()
                }
            )
        states = solve(solver, self.system, gradients, self.products)
        solutions = [state.vector("solution") for state in states]
        modules = {
            name: DenseQueries(torch.stack([one[name] for one in solutions]), shape.d_in)
            for name, shape in self._replica.shapes.items()
        }
        bank = QueryBank([query.digest for query in queries], modules)
        residuals = [state.history[-1] for state in states]
        return Solved(bank, residuals, sum(state.passes for state in states))
