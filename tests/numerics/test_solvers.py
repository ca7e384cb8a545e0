"""Our solvers, and one that is not ours, do what every solver has to do."""

from __future__ import annotations

import torch
from torch import Tensor

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.ekfac import EKFAC, ModuleFactors
from rayinfluence.curvature.solver import Cut, Identity, Inverse, Solver
from rayinfluence.methods.method import Curvature, Fitted
from rayinfluence.methods.registry import GRADIENT_METHODS
from rayinfluence.testing.solvers import SolverConformance


def made_up(d_in: int, d_out: int, bias: bool, blocks: int) -> ModuleFactors:
    """Factors of a module: random orthogonal bases in blocks, random positive numbers."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def basis(width: int) -> Basis:
        sizes = [width] if blocks == 1 else [width // 2, width - width // 2]
        return Basis(tuple(torch.linalg.qr(random(n, n)).Q for n in sizes))

    columns = d_in + bias
    return ModuleFactors(
        basis(columns),
        basis(d_out),
        random(columns).square(),
        random(d_out).square(),
        random(d_out, columns).square(),
    )


class OfAMethod(SolverConformance):
    method = "ekfac"
    blocks = 1

    def solver(self) -> Solver:
        factors = made_up(self.d_in, self.d_out, self.bias, self.blocks)
        fitted = Fitted("m", self.bias, Curvature(factors, 30, 10, 0.1, None))
        return GRADIENT_METHODS[self.method].solver(fitted)


class TestEKFAC(OfAMethod):
    pass


class TestEKFACInBlocksWithoutBias(OfAMethod):
    blocks, bias = 2, False


class TestKFAC(OfAMethod):
    method = "kfac"


class TestGradientProduct(OfAMethod):
    method = "gradient_product"


class Scaled:
    """Somebody else's: a number for each row of a weight."""

    damping = 0.5

    def __init__(self, rows_O: Tensor) -> None:
        self._rows_O = rows_O

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        return (self._rows_O + self.damping)[:, None] * gradient_OJ

    def inverse(self) -> Inverse:
        return ScaledBack(1 / (self._rows_O + self.damping))


class ScaledBack:
    def __init__(self, rows_O: Tensor) -> None:
        self._rows_O = rows_O

    def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
        return self._rows_O[:, None] * gradient_OJ

    def of_tokens(
        self, inputs_TI: Tensor, grads_TO: Tensor, cut: Cut | None = None
    ) -> dict[str, Tensor]:
        return Identity(bias=True).of_tokens(inputs_TI, grads_TO * self._rows_O, cut)


class TestAnother(SolverConformance):
    def solver(self) -> Solver:
        return Scaled(torch.arange(self.d_out, dtype=torch.float64))


def test_a_solver_that_is_none_is_found_out() -> None:
    """What forgets to damp its inverse, and what is not symmetric."""

    class Forgets(EKFAC):
        def inverse(self) -> Inverse:
            return EKFAC(self.factors, "m", damping=2 * self.damping).inverse()

    class Turned(Scaled):
        def __matmul__(self, gradient_OJ: Tensor) -> Tensor:
            return super().__matmul__(gradient_OJ.roll(1, dims=1))

    suite = SolverConformance()
    for made, failing in (
        (Forgets(made_up(5, 4, True, 1), "m"), suite.test_its_inverse_undoes_it),
        (Turned(torch.arange(4.0, dtype=torch.float64)), suite.test_it_is_symmetric_and_positive),
    ):
        suite.solver = lambda made=made: made  # type: ignore[method-assign]
        try:
            failing()
        except AssertionError:
            continue
        raise AssertionError(f"{failing.__name__} did not see it")
