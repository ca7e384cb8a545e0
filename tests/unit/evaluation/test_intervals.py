"""Bootstrap intervals hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.intervals import mean_interval, paired_difference, student


def coverage(n: int, repetitions: int = 250) -> float:
    generator = np.random.default_rng(n)
    held = 0
    for seed in range(repetitions):
        found = mean_interval(generator.exponential(size=n), seed)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.0 <= found.high
    return held / repetitions


def test_of_many_queries_95_of_100_intervals_hold_the_mean() -> None:
    # A skewed distribution; three standard deviations of the share are 0.045.
    assert 0.89 < coverage(100) < 0.99


def test_of_ten_fewer_do() -> None:
    assert 0.83 < coverage(10) < 0.93


def test_an_interval_is_that_of_the_normal_approximation_where_that_holds() -> None:
    values = np.random.default_rng(0).standard_normal(2000)
    found = mean_interval(values)
    assert found is not None
    half = 1.96 * values.std() / np.sqrt(2000)
    assert found.mean == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).standard_normal(20)
    assert mean_interval(values, 3) == mean_interval(values, 3)
    assert mean_interval(values, 3) != mean_interval(values, 4)


def test_a_difference_of_what_was_measured_together_is_surer_than_either() -> None:
    generator = np.random.default_rng(0)
    common = generator.standard_normal(50)
    ours, theirs = common + 0.1, common + 0.01 * generator.standard_normal(50)
    found, alone = paired_difference(ours, theirs), mean_interval(ours)
    assert found is not None
    assert alone is not None
    assert found.excludes_zero
    assert not alone.excludes_zero


def test_queries_without_a_value_are_left_out_and_counted() -> None:
    found = mean_interval(np.array([1.0, np.nan, 3.0]))
    assert found is not None
    assert (found.mean, found.n) == (2.0, 2)
    assert mean_interval(np.array([np.nan])) is None
    alone = mean_interval(np.array([2.0]))
    assert alone is not None
    assert (alone.mean, alone.low, alone.high, alone.n) == (2.0, None, None, 1)
    assert not alone.excludes_zero


def test_student_s_quantiles_are_those_of_tables() -> None:
    found = [student(freedom) for freedom in (1, 2, 3, 5, 10, 30)]
    assert found[:2] == pytest.approx([12.7062, 4.30265], rel=1e-5)
    assert found[2:] == pytest.approx([3.182, 2.571, 2.228, 2.042], rel=8e-3)
