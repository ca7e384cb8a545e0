"""Correlations of columns, with ties and with what has none."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.influence.correlations import area, mean_ranks, pearson, spearman


def columns(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float64).T


def test_equal_values_have_the_mean_of_their_ranks() -> None:
    found = mean_ranks(columns([3, 1, 3, 2], [5, 5, 5, 5]))
    assert found.T.tolist() == [[3.5, 1, 3.5, 2], [2.5, 2.5, 2.5, 2.5]]


def test_a_correlation_is_that_of_numpy() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.standard_normal((2, 30, 4))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours.T, theirs.T, strict=True)]
    assert pearson(ours, theirs) == pytest.approx(expected, abs=1e-14)
    assert pearson(ours * 1e200, theirs * 1e-200) == pytest.approx(expected, abs=1e-14)


def test_a_rank_correlation_without_ties_is_the_formula_of_squared_differences() -> None:
    generator = np.random.default_rng(1)
    ours, theirs = generator.permutation(12), generator.permutation(12)
    d2, n = float(((ours - theirs) ** 2).sum()), 12
    found = spearman(columns(ours.tolist()), columns(theirs.tolist()))
    assert found[0] == pytest.approx(1 - 6 * d2 / (n * (n * n - 1)))


def test_ties_are_what_they_are_in_scipy() -> None:
    # scipy.stats.spearmanr([1, 2, 2, 4, 5], [5, 6, 7, 8, 7]) is 0.8157..., = 31 / (2 sqrt(361)).
    found = spearman(columns([1, 2, 2, 4, 5]), columns([5, 6, 7, 8, 7]))
    ours, theirs = [1, 2.5, 2.5, 4, 5], [1, 2, 3.5, 5, 3.5]
    assert found[0] == pytest.approx(np.corrcoef(ours, theirs)[0, 1])


def test_what_is_constant_or_not_finite_has_no_correlation() -> None:
    ours = columns([1, 1, 1], [1, 2, float("nan")], [1, 2, 3])
    theirs = columns([1, 2, 3], [1, 2, 3], [2, 4, 6])
    for of in (pearson, spearman):
        found = of(ours, theirs)
        assert np.isnan(found[:2]).all()
        assert found[2] == pytest.approx(1)
    assert np.isnan(spearman(np.zeros((0, 2)), np.zeros((0, 2)))).all()


def test_an_area_is_how_often_a_wanted_one_is_before_another() -> None:
    scores, wanted = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])
    assert area(scores, wanted) == pytest.approx(3 / 4)
    assert area(-scores, wanted) == pytest.approx(1 / 4)
    assert area(np.ones(4), wanted) == pytest.approx(1 / 2)


def test_an_area_is_that_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 8, 50).astype(np.float64)
    wanted = generator.random(50) < 0.3
    ours, others = scores[wanted][:, None], scores[~wanted][None]
    assert area(scores, wanted) == pytest.approx(((ours > others) + (ours == others) / 2).mean())


def test_there_is_no_area_of_one_side_alone() -> None:
    none = np.zeros(3, dtype=np.bool_)
    assert np.isnan(area(np.arange(3.0), none))
    assert np.isnan(area(np.arange(3.0), ~none))
