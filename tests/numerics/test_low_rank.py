"""The randomised SVD is close to the best, and the same every time."""

from __future__ import annotations

import pytest
import torch
from compare import assert_same
from device import DEVICE
from torch import Tensor

from rayinfluence.influence import lowrank
from rayinfluence.influence.lowrank import low_rank


def decaying(d_out: int, columns: int, decay: float) -> Tensor:
    """A matrix whose singular values fall as (1 + i)^-decay."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(d_out, columns, generator=generator, dtype=torch.float64).to(DEVICE)
    left, values, right = torch.linalg.svd(random, full_matrices=False)
    return left * (1 + torch.arange(len(values)).to(values)) ** -decay @ right


@pytest.fixture
def randomised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank, "FULL_SVD_WIDTH", 8)


@pytest.mark.usefixtures("randomised")
@pytest.mark.parametrize("shape", [(120, 90), (90, 120)])
@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rank", [1, 10, 32])
def test_the_randomised_svd_is_near_optimal(
    shape: tuple[int, int], decay: float, rank: int
) -> None:
    matrix = decaying(*shape, decay)
    left, right = low_rank(matrix, rank, seed=1)
    assert left.shape == (shape[0], rank)
    assert right.shape == (shape[1], rank)
    optimal = float(torch.linalg.svdvals(matrix)[rank:].norm())
    assert optimal * (1 - 1e-12) <= float((matrix - left @ right.T).norm()) <= 1.02 * optimal


@pytest.mark.usefixtures("randomised")
def test_a_matrix_of_low_rank_is_recovered() -> None:
    matrix = decaying(120, 90, 1.0)[:, :6] @ decaying(6, 90, 1.0)
    left, right = low_rank(matrix, 6, seed=1)
    assert_same(left @ right.T, matrix)


@pytest.mark.usefixtures("randomised")
def test_the_seed_alone_decides() -> None:
    matrix = decaying(120, 90, 0.5)
    torch.manual_seed(0)
    first = low_rank(matrix, 10, seed=1)
    torch.manual_seed(1)
    again, other = low_rank(matrix, 10, seed=1), low_rank(matrix, 10, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_the_full_svd_is_optimal_and_its_sides_balanced(shape: tuple[int, int]) -> None:
    matrix = decaying(*shape, 0.5)
    values = torch.linalg.svdvals(matrix)
    for rank in (1, 5, 20, 50):
        left, right = low_rank(matrix, rank, seed=0)
        kept = min(rank, 20)
        assert left.shape[1] == right.shape[1] == kept
        assert_same(left.square().sum(dim=0), values[:kept])
        assert_same(right.square().sum(dim=0), values[:kept])
        error = (matrix - left @ right.T).norm()
        assert abs(float(error - values[kept:].norm())) < 1e-12 * float(matrix.norm())


def test_a_zero_gradient_stays_zero() -> None:
    left, right = low_rank(torch.zeros(5, 4, dtype=torch.float64), 3, seed=0)
    assert not left.any()
    assert not right.any()
