"""Shares of a forward sentence's influence, and sign tests, where the answer is known."""

import numpy as np
import pytest

from rayinfluence.influence.order import share, sign_test


def test_a_share_is_a_ratio_of_sums_with_an_interval_that_holds_it() -> None:
    generator = np.random.default_rng(0)
    forward = generator.lognormal(size=60)
    part = 0.3 * forward + 0.01 * generator.normal(size=60)
    ratio, low, high, n = share(part, forward) or pytest.fail("there is one")
    assert n == 60
    assert ratio == pytest.approx(part.sum() / forward.sum())
    assert low is not None
    assert high is not None
    assert 0.28 < low < 0.3 < high < 0.32


def test_intervals_of_a_share_of_nothing_hold_zero_as_often_as_they_say() -> None:
    held = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        forward = 1 + generator.random(40)
        found = share(generator.normal(size=40), forward)
        assert found is not None
        assert found[1] is not None
        assert found[2] is not None
        held += found[1] <= 0 <= found[2]
    assert 180 <= held <= 198  # 95 % of 200, and a little less as there are 40


def test_what_is_missing_is_left_out_and_no_influence_has_no_share() -> None:
    nan = np.nan
    assert share(np.array([1.0, nan, 3.0]), np.array([2.0, 5.0, nan])) == (0.5, None, None, 1)
    assert share(np.array([1.0, 2.0]), np.array([-1.0, 0.5])) is None
    assert share(np.array([nan]), np.array([1.0])) is None
    # A draw of the second query alone would divide by less than nothing.
    found = share(np.array([1.0, 1.0]), np.array([9.0, -8.0]))
    assert found == (2.0, None, None, 2)


def test_signs_are_counted_and_ties_left_out() -> None:
    more = np.array([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, np.nan, 1.0])
    less = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 0.0, 1.0])
    larger, n, p = sign_test(more, less) or pytest.fail("six differ")
    assert (larger, n) == (5, 6)
    assert p == pytest.approx(2 * (6 + 1) / 2**6)
    assert sign_test(less, more) == (1, 6, pytest.approx(p))
    assert sign_test(more, more) is None
    assert sign_test(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == (1, 2, 1.0)
