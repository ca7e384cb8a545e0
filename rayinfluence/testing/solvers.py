"""What every solver has to do, as tests: inherit from the suite and say which solver."""

from __future__ import annotations

import torch
from torch import Tensor

from rayinfluence.curvature.solver import Solver
from rayinfluence.influence.lowrank import low_rank


class SolverConformance:
    """The tests of :mod:`rayinfluence.curvature.solver`; pytest finds them in what inherits.

    Attributes:
        d_in, d_out: widths of the module.
        bias: whether it has one.
        tolerance: of relative differences, in float64.
    """

    d_in = 5
    d_out = 4
    bias = True
    tolerance = 1e-9

    def solver(self) -> Solver:
        """G + lambda I of a module of these widths, in float64."""
        raise NotImplementedError

    def gradient(self, seed: int) -> Tensor:
        """A made-up gradient [O, J]."""
        return _random(seed, self.d_out, self.d_in + self.bias)

    def test_it_is_linear(self) -> None:
        """A(2 V - W) = 2 A V - A W, for it and its inverse."""
        V, W = self.gradient(0), self.gradient(1)
        for operator in (self.solver(), self.solver().inverse()):
            self._same(operator @ (2 * V - W), 2 * (operator @ V) - operator @ W)

    def test_it_is_symmetric_and_positive(self) -> None:
        """<V, A W> = <A V, W> and <V, A V> > 0, for it and its inverse."""
        V, W = self.gradient(0), self.gradient(1)
        for operator in (self.solver(), self.solver().inverse()):
            self._same((V * (operator @ W)).sum(), ((operator @ V) * W).sum())
            assert float((V * (operator @ V)).sum()) > 0

    def test_its_inverse_undoes_it(self) -> None:
        """Either way round."""
        V, operator = self.gradient(0), self.solver()
        self._same(operator @ (operator.inverse() @ V), V)
        self._same(operator.inverse() @ (operator @ V), V)

    def test_a_gradient_given_by_its_tokens_is_solved_alike(self) -> None:
        """Dense, and at full rank."""
        inputs_TI, grads_TO = _random(2, 7, self.d_in), _random(3, 7, self.d_out)
        ones_T1 = torch.ones(7, int(self.bias), dtype=torch.float64)
        gradient_OJ = grads_TO.T @ torch.cat([inputs_TI, ones_T1], dim=1)
        inverse = self.solver().inverse()
        expected_OJ = inverse @ gradient_OJ
        self._same(inverse.of_tokens(inputs_TI, grads_TO)["dense"], expected_OJ)
        whole = inverse.of_tokens(inputs_TI, grads_TO, lambda matrix: low_rank(matrix, 1000, 0))
        self._same(whole["left"] @ whole["right"].T, expected_OJ)

    def test_a_cut_keeps_what_is_largest(self) -> None:
        """At rank 1 it is as near to the whole as any matrix of rank 1."""
        inputs_TI, grads_TO = _random(2, 7, self.d_in), _random(3, 7, self.d_out)
        inverse = self.solver().inverse()
        whole_OJ = inverse.of_tokens(inputs_TI, grads_TO)["dense"]
        cut = inverse.of_tokens(inputs_TI, grads_TO, lambda matrix: low_rank(matrix, 1, 0))
        assert cut["left"].shape[1] == cut["right"].shape[1] == 1
        values = torch.linalg.svdvals(whole_OJ)
        self._same((whole_OJ - cut["left"] @ cut["right"].T).norm(), values[1:].norm())

    def _same(self, found: Tensor, expected: Tensor) -> None:
        scale = float(expected.abs().max())
        assert float((found - expected).abs().max()) <= self.tolerance * scale


def _random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
