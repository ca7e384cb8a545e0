"""Concentration under random signs: against coins thrown for each score by itself."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from rayinfluence.influence.concentration import share_of_largest, shares_of_random_signs
from rayinfluence.influence.tails import Tail, Tails

K = np.array([1, 3, 10, 40, 200])
QUANTILES = (0.05, 0.5, 0.95)


def tails_of(scores: np.ndarray) -> tuple[Tail, Tail]:
    found = Tails.of(scores[:, None])
    return found.of_query(0, 1), found.of_query(0, -1)


def by_each_score(scores: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Shares of the k largest [D, K], with a coin for each of the scores."""
    generator = np.random.default_rng(seed)
    shares = []
    for _ in range(draws):
        positive = np.abs(scores)[generator.random(len(scores)) < 0.5]
        largest = np.sort(positive)[::-1]
        shares.append([largest[:k].sum() / largest.sum() for k in K])
    return np.array(shares)


def test_the_band_is_that_of_coins_for_each_score() -> None:
    scores = np.random.default_rng(0).standard_t(2, 1000)
    ours = shares_of_random_signs(*tails_of(scores), K, draws=4000, seed=1)
    naive = by_each_score(scores, draws=4000, seed=2)
    for quantile in QUANTILES:
        # Bins 4.4 % wide, and two samples of 4000 draws.
        assert_allclose(
            np.quantile(ours, quantile, axis=0), np.quantile(naive, quantile, axis=0), rtol=0.04
        )


def test_a_lopsided_tail_is_outside_and_a_symmetric_one_inside() -> None:
    generator = np.random.default_rng(3)
    noise = generator.standard_normal(2000)
    lopsided = np.concatenate([noise, generator.uniform(20, 40, 10)])
    for scores, is_inside in ((noise, True), (lopsided, False)):
        positive, negative = tails_of(scores)
        held = share_of_largest(positive, 10)
        assert held is not None
        shares = shares_of_random_signs(positive, negative, np.array([10]), draws=500, seed=0)
        low, high = np.quantile(shares[:, 0], (0.01, 0.99))
        assert bool(low <= held[0] <= high) is is_inside


def test_equal_seeds_give_equal_bits_and_all_of_them_hold_all() -> None:
    positive, negative = tails_of(np.array([1.0, -2.0, 3.5, 0.25, -8.0, 0.0]))
    found = [shares_of_random_signs(positive, negative, K, 64, seed=5) for _ in range(2)]
    assert_array_equal(found[0], found[1])
    some = ~np.isnan(found[0][:, 0])
    assert 0 < (~some).sum() < 16  # of five coins none in 1 of 32 draws
    assert_allclose(found[0][some][:, -1], 1.0, rtol=1e-12)
