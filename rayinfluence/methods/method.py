"""The method seam: what a run has to know of an attribution method.

A method reads gradients, texts, each sequence by itself, or what the last layer of the model sees.
One that reads gradients gives a linear map for each module, and a score is

    I(z, q) = sum over modules <G^-1 grad f_q, grad log p(z)>

or the same of the two gradients at length 1. One that reads texts weighs terms, which are token
ids, and a score is

    I(z, q) = sum over the terms t of q and z   weight(t) * strength(t in z)

One that reads each sequence by itself gives such a map, too, and asks no query:

    I(z, z) = sum over modules <G^-1 grad log p(z), grad log p(z)>

One that reads what the last layer sees has nothing to say but what its scores mean: the layer is
fitted again by a stage, and scores are as `influence/representers.py` says.

Passes over the corpus, banks, partials, the second pass and tables are the same for all of them.

V term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.query_forms import Query
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.curvature.solver import Solver
from rayinfluence.storage.results import ITSELF_ID, Meaning

#: Stands for the query that each sequence is to itself: of no text, and of a digest that no query
#: with tokens has.
ITSELF = EncodedQuery(Query(ITSELF_ID, ()), ())

#: Moments in the eigenbases of A and S, or in the basis that the weights are in.
FactorKind = Literal["ekfac", "diagonal"]


@dataclass(frozen=True)
class Curvature:
    """The factors of a module, and what belongs to them; all of it decides a method's queries.

    Attributes:
        factors: of the module.
        n_rows: that A and S are means over: the tokens, or of an expert those that chose it.
        n_sequences: that Lambda is the mean over.
        damping_scale, damping: see :class:`EKFAC`.
    """

    factors: ModuleFactors
    n_rows: int
    n_sequences: int
    damping_scale: float
    damping: float | None


@dataclass(frozen=True)
class Fitted:
    """What the solver of a module is made of, and nothing else: no other setting decides scores.

    Attributes:
        name: of the module.
        bias: whether it has one.
        curvature: of the module; None for methods that need none.
    """

    name: str
    bias: bool
    curvature: Curvature | None = None

    def ekfac(self, change: Callable[[Curvature], ModuleFactors] | None = None) -> Solver:
        """EK-FAC, with the factors or what they are changed to."""
        assert self.curvature is not None
        ours = self.curvature
        factors = ours.factors if change is None else change(ours)
        scale = ours.damping_scale
        return EKFAC(factors, self.name, damping_scale=scale, damping=ours.damping)


class Method(Protocol):
    """What every method says of itself."""

    @property
    def meaning(self) -> Meaning:
        """What its scores mean."""


class SolvingMethod(Method, Protocol):
    """A method that has a linear map for each module."""

    @property
    def factors(self) -> FactorKind | None:
        """Which factors its solvers are made of, which are fitted then, beside damping."""

    def solver(self, fitted: Fitted) -> Solver:
        """G of one module."""


class GradientMethod(SolvingMethod, Protocol):
    """A method whose map stands between a query's gradient and inner products."""

    @property
    def normalised(self) -> bool:
        """Whether scores are divided by the norms of both gradients, over all tracked modules."""


class SelfMethod(SolvingMethod, Protocol):
    """A method whose map stands between the gradient of each sequence and the same gradient.

    It asks none of the run's queries, and has one row in their place: :data:`ITSELF`.
    """


class TextMethod(Method, Protocol):
    """A method that compares the terms of a query, prompt and completion, with a sequence's."""

    def weight(
        self, holding_V: NDArray[np.int64], n_sequences: int, asked_V: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """What terms count.

        Args:
            holding_V: how many sequences of the corpus have each.
            n_sequences: that the corpus has.
            asked_V: how often each is in the query.
        """

    def strength(
        self,
        occurrences: NDArray[np.float64],
        lengths: NDArray[np.float64],
        mean_length: float,
    ) -> NDArray[np.float64]:
        """How much terms are in sequences; 0 where they do not occur.

        Args:
            occurrences: of a term in a sequence, of any shape.
            lengths: of that sequence, in tokens; broadcast to it.
            mean_length: of the corpus's sequences.
        """
