"""What every solver has to do, as tests: inherit from the suite and say which solver."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rayinfluence.curvature.solver import Solver
from rayinfluence.influence.lowrank import low_rank


class SolverConformance:
    """The tests of :mod:`rayinfluence.curvature.solver`; pytest finds them in what inherits.

    Attributes:
        d_in, d_out: widths of the module.
        tolerance: of relative differences, in float64.
    """

    d_in = 5
    d_out = 4
    tolerance = 1e-9

    def solver(self, bias: bool) -> Solver:
        """G + lambda I of a module of these widths, with or without a bias, in float64."""
        raise NotImplementedError

    def singular(self, bias: bool) -> Solver:
        """The same where G is singular: of some direction the module has seen nothing.

        Asked for only where solvers have a damping.
        """
        raise NotImplementedError

    def gradient(self, seed: int, bias: bool) -> Tensor:
        """A made-up gradient [O, J]."""
        return _random(seed, self.d_out, self.d_in + bias)

    def test_it_is_linear(self) -> None:
        """A(2 V - W) = 2 A V - A W, for it and its inverse."""
        for bias, solver in self._solvers():
            V, W = self.gradient(0, bias), self.gradient(1, bias)
            for operator in (solver, solver.inverse()):
                self._same(operator @ (2 * V - W), 2 * (operator @ V) - operator @ W)

    def test_it_is_symmetric_and_positive(self) -> None:
        """<V, A W> = <A V, W> and <V, A V> > 0, for it and its inverse."""
        for bias, solver in self._solvers():
            V, W = self.gradient(0, bias), self.gradient(1, bias)
            for operator in (solver, solver.inverse()):
                self._same((V * (operator @ W)).sum(), ((operator @ V) * W).sum())
                assert float((V * (operator @ V)).sum()) > 0

    def test_its_damping_is_added(self) -> None:
        """It is not negative, and no eigenvalue is below it, since those of G are not negative."""
        for bias, solver in self._solvers():
            if solver.damping is None:
                continue
            assert solver.damping >= 0
            lowest, largest = self._extremes(solver, bias)
            assert lowest >= solver.damping - self.tolerance * largest

    def test_its_damping_is_all_that_is_added(self) -> None:
        """Where G is singular the lowest eigenvalue is what it says is added, and no more."""
        for bias, solver in self._solvers():
            if solver.damping is None:
                continue
            singular = self.singular(bias)
            lowest, largest = self._extremes(singular, bias)
            assert singular.damping is not None
            assert abs(lowest - singular.damping) <= self.tolerance * largest

    def test_its_inverse_undoes_it(self) -> None:
        """Either way round."""
        for bias, operator in self._solvers():
            V = self.gradient(0, bias)
            self._same(operator @ (operator.inverse() @ V), V)
            self._same(operator.inverse() @ (operator @ V), V)

    def test_a_gradient_given_by_its_tokens_is_solved_alike(self) -> None:
        """Dense, and at full rank."""
        inputs_TI, grads_TO = _random(2, 7, self.d_in), _random(3, 7, self.d_out)
        for bias, solver in self._solvers():
            ones_T1 = torch.ones(7, int(bias), dtype=torch.float64)
            gradient_OJ = grads_TO.T @ torch.cat([inputs_TI, ones_T1], dim=1)
            inverse = solver.inverse()
            expected_OJ = inverse @ gradient_OJ
            self._same(inverse.of_tokens(inputs_TI, grads_TO)["dense"], expected_OJ)
            whole = inverse.of_tokens(inputs_TI, grads_TO, lambda matrix: low_rank(matrix, 1000, 0))
            self._same(whole["left"] @ whole["right"].T, expected_OJ)

    def test_the_quadratic_of_sequences_is_a_product_with_its_inverse(self) -> None:
        """<D, A^-1 D> of each, whether or not a sequence is longer than the module is wide."""
        for n_tokens in (2, 7):
            inputs_BTI = _random(4, 3, n_tokens, self.d_in)
            grads_BTO = _random(5, 3, n_tokens, self.d_out)
            for _, solver in self._solvers():
                inverse = solver.inverse()
                expected = []
                for inputs_TI, grads_TO in zip(inputs_BTI, grads_BTO, strict=True):
                    solved_OJ = inverse.of_tokens(inputs_TI, grads_TO)["dense"]
                    expected.append((solved_OJ * (solver @ solved_OJ)).sum())
                self._same(inverse.quadratic(inputs_BTI, grads_BTO), torch.stack(expected))

    def test_no_quadratic_is_negative(self) -> None:
        """Nor that of a sequence without a gradient."""
        for _, solver in self._solvers():
            inputs_BTI, grads_BTO = _random(6, 50, 1, self.d_in), _random(7, 50, 1, self.d_out)
            grads_BTO[0] = 0
            found_B = solver.inverse().quadratic(inputs_BTI.float(), 1e-12 * grads_BTO.float())
            assert (found_B >= 0).all()
            assert float(found_B[0]) == 0

    def test_a_cut_keeps_what_is_largest(self) -> None:
        """At rank 1 it is as near to the whole as any matrix of rank 1."""
        inputs_TI, grads_TO = _random(2, 7, self.d_in), _random(3, 7, self.d_out)
        for _, solver in self._solvers():
            inverse = solver.inverse()
            whole_OJ = inverse.of_tokens(inputs_TI, grads_TO)["dense"]
            cut = inverse.of_tokens(inputs_TI, grads_TO, lambda matrix: low_rank(matrix, 1, 0))
            assert cut["left"].shape[1] == cut["right"].shape[1] == 1
            values = torch.linalg.svdvals(whole_OJ)
            self._same((whole_OJ - cut["left"] @ cut["right"].T).norm(), values[1:].norm())

    def _solvers(self) -> Iterator[tuple[bool, Solver]]:
        for bias in (True, False):
            yield bias, self.solver(bias)

    def _extremes(self, solver: Solver, bias: bool) -> tuple[float, float]:
        """The lowest and the largest eigenvalue."""
        shape = self.d_out, self.d_in + bias
        units = torch.eye(shape[0] * shape[1], dtype=torch.float64)
        whole = torch.stack([(solver @ unit.reshape(shape)).flatten() for unit in units])
        values = torch.linalg.eigvalsh((whole + whole.T) / 2)
        return float(values[0]), float(values[-1])

    def _same(self, found: Tensor, expected: Tensor) -> None:
        assert found.shape == expected.shape
        scale = float(expected.abs().max())
        assert float((found - expected).abs().max()) <= self.tolerance * scale


def _random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
