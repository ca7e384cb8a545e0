"""The response of queries to a sequence: weights are moved in a twin of the model, in float64.

Q query.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.errors import ConfigError, ModelError
from rayinfluence.evaluation.pbrf.minimise import Minimum, minimised
from rayinfluence.evaluation.pbrf.moving import Moving, require_gradients
from rayinfluence.evaluation.pbrf.objective import Basis, Objective, Term, batches_of

#: Given a replica that nothing else moves, what of it moves.
Choose = Callable[[Replica], Sequence[Moving]]


@dataclass(frozen=True)
class Search:
    """How long a minimum is looked for.

    Attributes:
        tolerance: see :func:`minimised`. Responses still err more than gradients do: on networks
            with 18,000 weights by 2 to 7 % at 0.005.
        most_evaluations: of an objective with its gradient.
    """

    tolerance: float = 0.005
    most_evaluations: int = 3000


@dataclass(frozen=True)
class Response:
    """What moving weights did to queries.

    Attributes:
        changes_Q: of f, in the unit of f, from where the weights start.
        minimum: how it was found.
        converged: whether the gradient became as small as was wanted.
    """

    changes_Q: NDArray[np.float64]
    minimum: Minimum
    converged: bool


def twin_of(replica: Replica, model: nn.Module | None = None) -> Replica:
    """A copy in float64: differences of numbers that are nearly alike are what is measured.

    Args:
        replica: of the model.
        model: another one of the same class, in its place.

    Raises:
        ConfigError: training maximised a function of the user's own, of which no divergence is
            known.
        ModelError: its blocks are on several devices.
    """
    numerics = replica.numerics
    if numerics.function is not None:
        raise ConfigError(
            f"objective.kind: {numerics.function.name} is a function of your own, and a proximal "
            "Bregman response needs to know what distribution the model predicts. It is there for "
            "the other kinds."
        )
    if len({one.device for one in replica.model.parameters()}) > 1:
        raise ModelError(
            "model: its blocks are on several GPUs, and a proximal Bregman response moves a model "
            "that is on one. Leave `runner.gpus_per_actor` out."
        )
    twin = copy.deepcopy(replica.model if model is None else model).double()
    modules = {name: twin.get_submodule(name) for name in replica.modules}
    return Replica(twin, modules, replace(numerics, dtype="float64"), replica.shapes)


class Responses:
    """Responses of some queries to sequences, one after another.

    Args:
        replica: the model; it is not changed.
        table: rows of the basis.
        queries: that are asked.
        choose: what moves.
        search: how long.
    """

    def __init__(
        self,
        replica: Replica,
        table: pa.Table,
        queries: Sequence[EncodedQuery],
        choose: Choose,
        search: Search | None = None,
    ) -> None:
        self._moved = twin_of(replica)
        self._basis = Basis(twin_of(replica), table)
        self._queries, self._search = queries, search or Search()
        self._moving = choose(self._moved)
        self._n = sum(one.shape.numel() for one in self._moving)
        self.start_Q = self.values(self._moved)

    def of(
        self,
        row: pa.Table | None,
        epsilon: float,
        term: Term = "divergence",
        proximal: bool = True,
    ) -> Response:
        """The response to one sequence.

        Args:
            row: the sequence; None where nothing but the basis counts.
            epsilon: see :class:`Objective`.
            term: the same.
            proximal: the same.

        Raises:
            NumericsError: the sequence cannot be scored, or the objective is not finite.
        """
        others = [] if row is None else list(batches_of(self._moved, row))
        objective = Objective(
            self._moved, self._basis, self._moving, others, epsilon, term, proximal
        )
        start_D = torch.zeros(self._n, dtype=torch.float64, device=self._moved.device)
        search = self._search
        require_gradients(self._moving, True)
        try:
            minimum = minimised(objective.at, start_D, search.tolerance, search.most_evaluations)
            objective.put(minimum.coordinates_D)
            require_gradients(self._moving, False)
            changes_Q = self.values(self._moved) - self.start_Q
        finally:
            require_gradients(self._moving, False)
            objective.put(start_D)
        return Response(changes_Q, minimum, minimum.gradient <= search.tolerance)

    def values(self, replica: Replica) -> NDArray[np.float64]:
        """F of all queries [Q], by the code that scores are made with."""
        return np.array([query_gradient(replica, query).value for query in self._queries])
