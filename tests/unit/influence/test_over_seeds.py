import statistics

import numpy as np
import pytest

from rayinfluence.influence.seeds import over_seeds


@pytest.mark.parametrize("n_seeds", [2, 3, 7])
def test_a_mean_and_its_standard_error_are_those_of_the_textbook(n_seeds: int) -> None:
    scores_SN = np.random.default_rng(n_seeds).normal(3.0, 2.0, (n_seeds, 50))
    means, errors = over_seeds(scores_SN)
    for place, column in enumerate(scores_SN.T.tolist()):
        assert means[place] == pytest.approx(statistics.fmean(column), rel=1e-14)
        wanted = statistics.stdev(column) / n_seeds**0.5
        assert errors[place] == pytest.approx(wanted, rel=1e-14)


def test_what_a_seed_has_no_score_of_has_no_mean() -> None:
    means, errors = over_seeds(np.array([[1.0, np.nan, 2.0], [3.0, 4.0, 2.0]]))
    assert np.array_equal(means, [2.0, np.nan, 2.0], equal_nan=True)
    assert np.array_equal(errors, [1.0, np.nan, 0.0], equal_nan=True)


def test_standard_errors_are_right_on_average() -> None:
    """Of many draws of four seeds the mean squared error of the mean is that of the errors."""
    draws_SN = np.random.default_rng(0).normal(0.0, 1.0, (4, 200_000))
    means, errors = over_seeds(draws_SN)
    assert np.mean(errors**2) == pytest.approx(np.mean(means**2), rel=0.01)
