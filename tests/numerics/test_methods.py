"""Our methods, and two that are not ours, do what every method has to do."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.curvature.solver import Identity, Solver
from rayinfluence.methods.bm25 import BM25
from rayinfluence.methods.likeness import Cosine
from rayinfluence.methods.method import Fitted, GradientMethod, SelfMethod, TextMethod
from rayinfluence.methods.registry import GRADIENT_METHODS, SELF_METHODS, TEXT_METHODS
from rayinfluence.storage.results import Meaning
from rayinfluence.testing.methods import (
    GradientMethodConformance,
    SelfMethodConformance,
    TextMethodConformance,
)


class TestOursByGradients(GradientMethodConformance):
    @pytest.fixture(autouse=True, params=GRADIENT_METHODS)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def method(self) -> GradientMethod:
        return GRADIENT_METHODS[self.name]


class TestOursByTexts(TextMethodConformance):
    @pytest.fixture(autouse=True, params=TEXT_METHODS)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def method(self) -> TextMethod:
        return TEXT_METHODS[self.name]


class TestOursByItself(SelfMethodConformance):
    @pytest.fixture(autouse=True, params=SELF_METHODS)
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.name = request.param

    def method(self) -> SelfMethod:
        return SELF_METHODS[self.name]


class Norm:
    """Somebody else's: the square of a gradient's length."""

    factors = None
    meaning = Meaning("a square of a length.", "1", predicts=False, of_itself=True)

    def solver(self, fitted: Fitted) -> Solver:
        return Identity(fitted.bias)


class TestAnotherByItself(SelfMethodConformance):
    def method(self) -> SelfMethod:
        return Norm()


class Relative:
    """Somebody else's: influence by EK-FAC of gradients of length 1."""

    factors = "ekfac"
    normalised = True
    meaning = Meaning("a relative influence.", "1", predicts=False)

    def solver(self, fitted: Fitted) -> Solver:
        return fitted.ekfac()


class TestAnotherByGradients(GradientMethodConformance):
    def method(self) -> GradientMethod:
        return Relative()


class Overlap:
    """Somebody else's: how many distinct tokens two texts share."""

    meaning = Meaning("a count.", "tokens", False, False, has_layers=False, of_predictions=False)

    def weight(self, holding_V, n_sequences, asked_V):
        return np.ones(len(holding_V))

    def strength(self, occurrences, lengths, mean_length):
        return (occurrences > 0).astype(float)


class TestAnotherByTexts(TextMethodConformance):
    def method(self) -> TextMethod:
        return Overlap()


def test_a_method_that_is_none_is_found_out() -> None:
    """What needs factors and does not say so, what predicts nowhere, what counts what is not."""

    class Silent(Relative):
        factors = None

    class Nowhere(Cosine):
        meaning = Meaning("a change without a direction.", "nats", predicts=True, directed=False)

    class Everywhere(BM25):
        def strength(self, occurrences, lengths, mean_length):
            return super().strength(occurrences + 1, lengths, mean_length)

    class Turned(Cosine):
        def solver(self, fitted: Fitted) -> Solver:
            class Twice(Identity):
                def of_tokens(self, inputs_TI, grads_TO, cut=None):
                    return super().of_tokens(inputs_TI, 2 * grads_TO, cut)

            return Twice(fitted.bias)

    scores = GradientMethodConformance.test_scores_are_those_of_autograd_and_its_solver
    for method, failing in (
        (Silent(), scores),
        (Turned(), scores),
        (Nowhere(), GradientMethodConformance.test_it_says_what_its_scores_mean),
        (Everywhere(), TextMethodConformance.test_what_does_not_occur_counts_nothing),
    ):
        text = isinstance(method, BM25)
        suite = TextMethodConformance() if text else GradientMethodConformance()
        suite.method = lambda method=method: method  # type: ignore[method-assign]
        with pytest.raises(AssertionError):
            failing(suite)
