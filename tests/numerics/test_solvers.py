"""Our solvers, and one that is not ours, do what every solver has to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.curvature.solver import Cut, Identity, Inverse, Solver
from rayinfluence.methods.method import Curvature, Fitted
from rayinfluence.methods.registry import GRADIENT_METHODS
from rayinfluence.testing.solvers import SolverConformance


def made_up(d_in: int, d_out: int, bias: bool, blocks: int, singular: bool) -> ModuleFactors:
    """Factors of a module: random orthogonal bases in blocks, random positive numbers.

    ``singular``: nothing was seen in one direction of its inputs.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def basis(width: int) -> Basis:
        sizes = [width] if blocks == 1 else [width // 2, width - width // 2]
        return Basis(tuple(torch.linalg.qr(random(n, n)).Q for n in sizes))

    columns = d_in + bias
    seen_J = torch.ones(columns, dtype=torch.float64)
    seen_J[0] = 0.0 if singular else 1.0
    return ModuleFactors(
        basis(columns),
        basis(d_out),
        random(columns).square() * seen_J,
        random(d_out).square(),
        random(d_out, columns).square() * seen_J,
    )


class TestThoseOfMethods(SolverConformance):
    """Of every method in the registry that reads gradients."""

    blocks = 1

    @pytest.fixture(autouse=True, params=list(GRADIENT_METHODS))
    def _choose(self, request: pytest.FixtureRequest) -> None:
        self.method = GRADIENT_METHODS[request.param]

    def solver(self, bias: bool, singular: bool = False) -> Solver:
        factors = made_up(self.d_in, self.d_out, bias, self.blocks, singular)
        return self.method.solver(Fitted("m", bias, Curvature(factors, 30, 10, 0.1, None)))

    def singular(self, bias: bool) -> Solver:
        return self.solver(bias, singular=True)


class TestThoseOfMethodsInBlocks(TestThoseOfMethods):
    blocks = 2


class Scaled:
    """Somebody else's: a number for each row of a weight."""

    damping = 0.5

    def __init__(self, rows_O: Tensor, bias: bool) -> None:
        self._rows_O = rows_O
        self._bias = bias

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        return (self._rows_O + self.damping)[:, None] * gradient_OJ

    def inverse(self) -> Inverse:
        return ScaledBack(1 / (self._rows_O + self.damping), self._bias)


class ScaledBack:
    def __init__(self, rows_O: Tensor, bias: bool) -> None:
        self._rows_O = rows_O
        self._bias = bias

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        return self._rows_O[:, None] * gradient_OJ

    def of_tokens(
        self, inputs_TI: Tensor, grads_TO: Tensor, cut: Cut | None = None
    ) -> dict[str, Tensor]:
        return Identity(self._bias).of_tokens(inputs_TI, grads_TO * self._rows_O, cut)

    def quadratic(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        roots_O = self._rows_O.abs().sqrt().to(grads_BTO)
        return Identity(self._bias).quadratic(inputs_BTI, grads_BTO * roots_O)


def made_of(kind: type[Scaled]) -> Callable[[bool], Solver]:
    return lambda bias: kind(torch.arange(4, dtype=torch.float64), bias)


class TestAnother(SolverConformance):
    def solver(self, bias: bool) -> Solver:
        return made_of(Scaled)(bias)

    def singular(self, bias: bool) -> Solver:
        return made_of(Scaled)(bias)  # one of its numbers is zero


class Forgets(EKFAC):
    """Damps its inverse otherwise."""

    def inverse(self) -> Inverse:
        return EKFAC(self.factors, "m", damping=2 * self.damping).inverse()


class Turned(Scaled):
    """Is not symmetric."""

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        return super().__matmul__(gradient_OJ.roll(1, dims=1))


class Negative(Scaled):
    """Has less than nothing added to it, and is positive all the same."""

    damping = -0.5

    def __init__(self, rows_O: Tensor, bias: bool) -> None:
        super().__init__(rows_O + 1, bias)


class Subtracts(Scaled):
    """Says what is added to it, and takes it away; it is positive all the same."""

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        return (self._rows_O + 0.75 - self.damping)[:, None] * gradient_OJ


class Understates(Scaled):
    """Adds something, and says that it adds nothing."""

    damping = 0.0

    def __init__(self, rows_O: Tensor, bias: bool) -> None:
        super().__init__(rows_O + 0.5, bias)


class Plain(Scaled):
    """Takes the quadratic of the gradient as it is."""

    def inverse(self) -> Inverse:
        class Back(ScaledBack):
            def quadratic(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
                return Identity(self._bias).quadratic(inputs_BTI, grads_BTO)

        return Back(1 / (self._rows_O + self.damping), self._bias)


class AlwaysBiased(Scaled):
    """Takes every module for one with a bias."""

    def __init__(self, rows_O: Tensor, bias: bool) -> None:
        super().__init__(rows_O, True)


@pytest.mark.parametrize(
    ("made", "test"),
    [
        (
            lambda bias: Forgets(made_up(5, 4, bias, 1, False), "m"),
            "test_its_inverse_undoes_it",
        ),
        (made_of(Turned), "test_it_is_symmetric_and_positive"),
        (made_of(Negative), "test_its_damping_is_added"),
        (made_of(Subtracts), "test_its_damping_is_added"),
        (made_of(Understates), "test_its_damping_is_all_that_is_added"),
        (made_of(Plain), "test_the_quadratic_of_sequences_is_a_product_with_its_inverse"),
        (made_of(AlwaysBiased), "test_a_gradient_given_by_its_tokens_is_solved_alike"),
    ],
    ids=["forgets", "turned", "negative", "subtracts", "understates", "plain", "always biased"],
)
def test_a_solver_that_is_none_is_found_out(
    made: Callable[[bool], Solver], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = TestAnother()
    getattr(suite, test)()
    for place in ("solver", "singular"):
        monkeypatch.setattr(suite, place, made)
    with pytest.raises(AssertionError):
        getattr(suite, test)()
