"""Lifts of groups, their intervals, and means with standard errors."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.influence.lift import lift, mean_and_error


def test_a_lift_is_the_share_of_the_top_over_the_share_of_the_corpus() -> None:
    found = lift(np.array([8, 2, 0]), 10, np.array([50, 450, 500]))
    assert found.lift_G == pytest.approx([16.0, 2 / 4.5, 0.0])
    # Wilson's interval of 8 of 10 is 0.490 to 0.943, of 0 of 10 it is 0 to 0.278.
    assert found.low_G == pytest.approx([0.4901625 / 0.05, 0.0566822 / 0.45, 0.0], rel=1e-5)
    assert found.high_G == pytest.approx(
        [0.9433178 / 0.05, 0.5098375 / 0.45, 0.2775328 / 0.5], rel=1e-5
    )


def test_the_only_group_has_a_lift_of_one() -> None:
    found = lift(np.array([3]), 3, np.array([700]))
    assert (found.lift_G[0], found.high_G[0]) == (1.0, 1.0)
    assert 0.4 < found.low_G[0] < 0.5


def test_means_and_their_errors_are_those_of_the_scores() -> None:
    generator = np.random.default_rng(0)
    groups = [generator.standard_normal(n) * 1e4 + 7 for n in (2, 50, 1)]
    sums, squares = ([(s**p).sum() for s in groups] for p in (1, 2))
    counts = np.array([len(s) for s in groups])
    mean, error = mean_and_error(np.array(sums), np.array(squares), counts)
    assert mean == pytest.approx([s.mean() for s in groups])
    assert error[:2] == pytest.approx([s.std(ddof=1) / len(s) ** 0.5 for s in groups[:2]])
    assert np.isnan(error[2])


def test_equal_scores_have_no_error() -> None:
    _, error = mean_and_error(np.array([0.3]), np.array([3 * 0.1**2]), np.array([3]))
    assert 0 <= error[0] < 1e-8
