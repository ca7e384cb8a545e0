"""Intervals hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.shapley.estimators import (
    Coalition,
    Enumeration,
    Estimate,
    Estimator,
    Permutations,
    SampleReuse,
    Stopping,
    play,
)
from rayinfluence.evaluation.shapley.semivalues import BANZHAF, SHAPLEY, exact
from rayinfluence.evaluation.shapley.sureness import group_values

N = 5
NAMES = ("ada", "bob", "cyd", "dee", "eve")


def estimators(draw: int) -> list[Estimator]:
    return [
        Enumeration(SHAPLEY, N),
        Permutations(SHAPLEY, N, Stopping(30, 0), 0.0, draw),
        SampleReuse(BANZHAF, NAMES, Stopping(40, 0), draw),
    ]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_95_of_100_intervals_hold_the_value_of_the_mean_of_seeds(which: int) -> None:
    """Utilities have noise of their own for each coalition and seed, as trainings have."""
    generator = np.random.default_rng(which)
    truth = generator.normal(size=(2**N, 1, 1))
    held = []
    for draw in range(150):
        noisy = truth + 0.5 * generator.normal(size=(2**N, 3, 1))
        one = estimators(draw)[which]

        def utility(some: list[Coalition], noisy: np.ndarray = noisy) -> np.ndarray:
            return noisy[some]

        found = group_values(one.found(play([one], utility)))
        wanted = exact(one.semivalue, N, truth)[0, :, 0]
        for value, [cell] in zip(wanted, found, strict=True):
            assert cell.low is not None
            assert cell.high is not None
            held.append(cell.low <= value <= cell.high)
    assert 0.93 < np.mean(held) <= 1  # what draws and seeds do together is counted twice


def estimated(values_RGQ: np.ndarray, error: float, freedom: int) -> Estimate:
    return Estimate(values_RGQ, np.full((1, 1), error), np.full((1, 1), float(freedom)))


def test_of_one_seed_that_is_enumerated_nothing_is_known_of_errors() -> None:
    [[one]] = group_values(estimated(np.ones((1, 1, 1)), 0.0, 0))
    assert (one.mean, one.low, one.high, one.of_draws, one.of_seeds) == (1, None, None, 0, None)


def test_of_one_seed_an_interval_is_of_draws_alone() -> None:
    [[one]] = group_values(estimated(np.ones((1, 1, 1)), 0.1, 10))
    assert one.low == pytest.approx(1 - 2.228 * 0.1, rel=1e-3)
    assert one.of_seeds is None


def test_equal_errors_have_the_freedom_of_both() -> None:
    """Welch and Satterthwaite: of two equal variances with n each it is 2 n."""
    values_RGQ = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0]).reshape(6, 1, 1)
    values_RGQ[0], values_RGQ[1] = 1 - np.sqrt(3), 1 + np.sqrt(3)
    error = float(values_RGQ.std(ddof=1) / np.sqrt(6))
    [[one]] = group_values(estimated(values_RGQ, error, 5))
    assert one.of_seeds == pytest.approx(error)
    assert one.high == pytest.approx(1 + 2.228 * np.sqrt(2) * error, rel=1e-3)


def test_small_errors_have_intervals_too() -> None:
    tiny = 1e-120
    [[one]] = group_values(estimated(np.ones((1, 1, 1)) * tiny, tiny, 3))
    assert one.high is not None
    assert one.high > one.mean
    [[none]] = group_values(estimated(np.ones((2, 1, 1)), 0.0, 3))
    assert (none.low, none.high) == (1, 1)
