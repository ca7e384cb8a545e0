"""What is said of a filter's recall holds as often as it says, and not because it says nothing."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from rayinfluence.influence.recall import CONFIDENCE, certified_top, recall


def _drawn(n_all: int, n_top: int, n_kept: int, n: int, generator: np.random.Generator):
    """Whether the members of a random sample are candidates, by rank; a tenth of the rest are."""
    is_candidate = generator.random(n_all) < 0.1
    is_candidate[:n_top] = False
    is_candidate[generator.choice(n_top, n_kept, replace=False)] = True
    return is_candidate[np.sort(generator.choice(n_all, n, replace=False))]


@pytest.mark.parametrize(
    ("n_all", "n_top", "n_kept", "n"),
    [
        (2_000, 100, 100, 200),
        (2_000, 100, 95, 200),
        (2_000, 100, 50, 200),
        (2_000, 100, 3, 200),
        (500, 10, 9, 250),
        (500, 40, 39, 450),
        (100_000, 1_000, 999, 600),
    ],
)
def test_a_bound_holds_as_often_as_it_says(n_all: int, n_top: int, n_kept: int, n: int) -> None:
    generator = np.random.default_rng(n_kept)
    n_draws = 400
    failures = sum(
        recall(_drawn(n_all, n_top, n_kept, n, generator), n_all, n_top).at_least > n_kept / n_top
        for _ in range(n_draws)
    )
    assert failures <= (1 - CONFIDENCE) * n_draws


def test_a_normal_approximation_does_not_hold() -> None:
    """So the test above can fail: of few, nearly all kept, it fails more than one in ten times."""
    n_all, n_top, n_kept, n = 2_000, 100, 95, 200
    generator = np.random.default_rng(0)
    failures = 0
    for _ in range(400):
        seen = _drawn(n_all, n_top, n_kept, n, generator)[: n * n_top // n_all]
        share = float(seen.mean())
        error = (share * (1 - share) / len(seen)) ** 0.5
        failures += share - 1.645 * error > n_kept / n_top
    assert failures > 40


def test_the_bound_of_a_small_population_holds_over_all_samples() -> None:
    """Each sample of 4 of 9 counted, for each recall of a top of 3."""
    n_all, n_top, n = 9, 3, 4
    for n_kept in range(n_top + 1):
        is_candidate = np.array([rank < n_kept or rank > 6 for rank in range(n_all)])
        bounds = [
            recall(is_candidate[list(drawn)], n_all, n_top, confidence=0.8).at_least
            for drawn in combinations(range(n_all), n)
        ]
        assert np.mean([bound > n_kept / n_top for bound in bounds]) <= 0.2


def test_a_census_knows_the_recall() -> None:
    is_candidate = np.arange(200) % 4 > 0
    found = recall(is_candidate, 200, 40)
    assert found.estimate == found.at_least == 30 / 40


def test_more_that_is_seen_shows_more() -> None:
    shown = [recall(np.ones(n, np.bool_), 10**6, 10**4).at_least for n in (100, 1_000, 10_000)]
    assert shown[0] < shown[1] < shown[2] < 1
    assert shown[2] > 0.9
    assert recall(np.zeros(1_000, np.bool_), 10**6, 10**4).at_least == 0


def test_the_top_that_a_sample_can_certify() -> None:
    """One in a thousand of it if it is large; of a small one more; a top 100 of 10^7 never."""
    assert certified_top(10**7, 15_000) == 10**4
    few = certified_top(10**7, 2_000)
    assert few > 10**4
    whole = np.ones(2_000, np.bool_)
    assert recall(whole, 10**7, few).at_least >= 0.5 > recall(whole, 10**7, few - 1).at_least
    assert recall(np.ones(20_000, np.bool_), 10**7, 100).at_least == pytest.approx(0, abs=0.01)
    assert certified_top(1_000, 1_000) == 1
