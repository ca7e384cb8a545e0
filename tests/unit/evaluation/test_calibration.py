"""Slopes of measured over predicted changes, and where they hold."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.calibration import calibration


def test_changes_that_are_all_half_of_what_was_predicted_have_a_slope_of_a_half() -> None:
    predicted = np.random.default_rng(0).standard_normal((20, 4))
    found = calibration(predicted, predicted / 2)
    assert found is not None
    assert (found.slope.mean, found.slope.low, found.slope.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.r_squared == pytest.approx(1)
    assert found.rank == pytest.approx(1)
    assert (found.n_pairs, found.slope.n) == (80, 20)


@pytest.mark.parametrize("trainings", [5, 20, 60])
def test_a_slope_s_interval_holds_it_in_95_of_100_cases(trainings: int) -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        predicted = np.abs(generator.standard_normal((trainings, 3)))
        # What a training does by itself, all of its queries have; what the one without a copy
        # does, all differences from it.
        noise = generator.standard_normal((trainings, 1)) + generator.standard_normal(
            (trainings, 3)
        )
        noise += 10 * generator.standard_normal((1, 3))
        found = calibration(predicted, 0.8 * predicted + noise)
        assert found is not None
        assert found.slope.low is not None
        assert found.slope.high is not None
        held += found.slope.low <= 0.8 <= found.slope.high
    assert 0.91 < held / 300 < 0.99


def test_where_the_largest_are_beyond_what_is_linear_the_slope_does_not_hold_below() -> None:
    generator = np.random.default_rng(1)
    sizes = np.repeat([1e-4, 1e-2, 1e-1, 0.3, 30.0], 40)
    signs = generator.choice([-1, 1], 200)
    predicted = (sizes * signs * generator.uniform(0.5, 1.5, 200))[:, None]
    measured = np.tanh(predicted) + 1e-2 * generator.standard_normal(predicted.shape)
    found = calibration(predicted, measured)
    assert found is not None
    # Most of the squares are those of the largest, which are far from linear: so is the slope.
    assert found.slope.mean < 0.05
    assert [one.holds for one in found.bins] == [False, False, False, False, True]
    assert [one.slope.mean for one in found.bins[2:4]] == pytest.approx([1, 1], abs=0.15)
    linear = calibration(predicted[:160], measured[:160])
    assert linear is not None
    assert linear.slope.mean == pytest.approx(1, abs=0.15)
    assert linear.holds is not None
    assert linear.holds[1] == pytest.approx(np.abs(predicted[:160]).max())


def test_the_range_leaves_out_what_drowns_in_noise() -> None:
    generator = np.random.default_rng(1)
    sizes = np.repeat([1e-4, 1e-3, 1e-1, 0.5, 1.0], 40)
    predicted = (sizes * generator.choice([-1, 1], 200))[:, None]
    measured = predicted + 2e-2 * generator.standard_normal(predicted.shape)
    found = calibration(predicted, measured)
    assert found is not None
    assert [one.holds for one in found.bins] == [False, False, True, True, True]
    assert found.holds == (0.1, 1.0)


def test_pairs_without_a_prediction_are_left_out_and_nothing_predicted_is_nothing() -> None:
    predicted = np.array([[1.0, np.nan], [2.0, 3.0], [4.0, 5.0]])
    measured = np.array([[1.0, 9.0], [2.0, 3.0], [4.0, 5.0]])
    found = calibration(predicted, measured)
    assert found is not None
    assert found.n_pairs == 5
    assert found.slope.mean == pytest.approx(1)
    assert found.r_squared == pytest.approx(1)
    assert calibration(np.zeros((3, 2)), np.ones((3, 2))) is None
    assert calibration(np.zeros((0, 2)), np.zeros((0, 2))) is None


def test_two_trainings_have_a_slope_without_an_interval() -> None:
    found = calibration(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]]))
    assert found is not None
    assert found.slope.mean == pytest.approx(0.5)
    assert found.slope.low is None
    assert found.holds is None


def test_a_single_training_says_nothing_of_sizes() -> None:
    assert calibration(np.array([[1.0, 2.0]]), np.array([[1.0, 2.0]])) is None


def test_it_does_not_matter_which_model_changes_are_from() -> None:
    generator = np.random.default_rng(3)
    predicted, measured = generator.standard_normal((2, 12, 4))
    found = calibration(predicted, measured)
    shifted = calibration(predicted, measured - 7 * generator.standard_normal((1, 4)))
    assert found is not None
    assert shifted is not None
    assert found.slope.mean == pytest.approx(shifted.slope.mean)
    assert found.r_squared == pytest.approx(shifted.r_squared)
