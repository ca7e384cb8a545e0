"""Laws of the largest scores, on samples of which the law is known."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.influence.against import Against, against_others, fitted
from rayinfluence.influence.largest import (
    Fit,
    Largest,
    best_fit,
    log_likelihoods,
    plausibility,
    power_law_of,
)
from rayinfluence.influence.laws import OTHERS, Law
from rayinfluence.influence.needed import held_out_ratio, sequences_needed
from rayinfluence.influence.simplex import minimise
from rayinfluence.influence.tails import Tails

NUMBERS = np.array([500, 700, 1000])
BY_NAME = {law.name: law for law in OTHERS}


def pareto(exponent: float, n: int, seed: int = 0) -> np.ndarray:
    return (1 - np.random.default_rng(seed).random(n)) ** (-1 / (exponent - 1))


def binned(scores: np.ndarray) -> Largest:
    return Largest.of_tail(Tails.of(scores[:, None]).of_query(0, 1))


def fit_of(scores: np.ndarray, in_bins: bool = False) -> tuple[Largest, Fit]:
    largest = (binned(scores) if in_bins else Largest.of_scores(scores)).first(1000)
    fit = best_fit(largest, NUMBERS)
    assert fit is not None
    return largest, fit


def beside(scores: np.ndarray, in_bins: bool = False) -> dict[str, Against]:
    return {one.law: one for one in against_others(fit_of(scores, in_bins)[1])}


@pytest.mark.parametrize("in_bins", [False, True])
@pytest.mark.parametrize("exponent", [2.2, 3.0, 4.0])
def test_the_exponent_of_a_pareto_sample_is_found_within_a_twentieth(
    exponent: float, in_bins: bool
) -> None:
    scores = pareto(exponent, 10_000)
    law = power_law_of(binned(scores) if in_bins else Largest.of_scores(scores))
    assert law is not None
    assert law.exponent == pytest.approx(exponent, rel=0.05)
    assert abs(law.exponent - exponent) < 4 * law.error


@pytest.mark.parametrize("in_bins", [False, True])
def test_a_pareto_sample_beats_what_has_no_heavy_tail_and_is_beaten_by_nothing(
    in_bins: bool,
) -> None:
    found = beside(pareto(2.5, 100_000), in_bins)
    assert {found[name].better for name in ("exponential", "Rayleigh", "Gumbel")} == {"power law"}
    assert "other" not in {one.better for one in found.values()}


@pytest.mark.parametrize("in_bins", [False, True])
def test_a_lognormal_sample_is_told_from_a_power_law(in_bins: bool) -> None:
    scores = np.exp(np.random.default_rng(0).normal(0, 0.2, 100_000))
    assert beside(scores, in_bins)["lognormal"].better == "other"


def test_an_exponential_sample_is_no_power_law() -> None:
    scores = np.random.default_rng(0).exponential(size=100_000)
    found = beside(scores)
    assert {found[n].better for n in ("exponential", "Gumbel", "GEV", "lognormal")} == {"other"}
    largest, fit = fit_of(scores)
    assert plausibility(largest, fit, NUMBERS, 50, 0) <= 0.1


@pytest.mark.parametrize("in_bins", [False, True])
def test_how_plausible_true_power_laws_are_is_even(in_bins: bool) -> None:
    found = []
    for seed in range(20):
        largest, fit = fit_of(pareto(3.0, 50_000, seed), in_bins)
        found.append(plausibility(largest, fit, NUMBERS, 30, seed))
    assert 0.3 < np.mean(found) < 0.7
    assert sum(p <= 0.1 for p in found) <= 6


@pytest.mark.parametrize("law", OTHERS, ids=lambda law: law.name)
def test_densities_and_shares_above_belong_together(law: Law) -> None:
    """The share above falls by the integral of the density, by Simpson's rule."""
    y = np.linspace(1.0, 3.0, 2001)
    for at in law.starts:
        density = np.exp(law.log_density(y, *at))
        area = (y[1] - y[0]) / 3 * (density[0] + 4 * density[1:-1:2].sum() + density[-1])
        area += (y[1] - y[0]) / 3 * 2 * density[2:-1:2].sum()
        above = np.exp(law.log_above(y[[0, -1]], *at))
        assert above[0] - above[1] == pytest.approx(area, rel=1e-6)


def test_laws_are_fitted_where_their_likelihood_is_largest() -> None:
    scores = 1 + np.random.default_rng(1).exponential(0.5, 2_000)
    largest = Largest.of_scores(scores)
    # Of an exponential law that begins at the smallest score, in units of that score.
    rate = 1 / (scores / scores.min() - 1).mean()
    assert np.exp(fitted(largest, BY_NAME["exponential"])[0]) == pytest.approx(rate, rel=1e-3)
    raised = (scores / scores.min()) ** 2 - 1
    scale = np.exp(fitted(largest, BY_NAME["Rayleigh"])[0])
    assert scale == pytest.approx(np.sqrt(raised.mean() / 2), rel=1e-3)


@pytest.mark.parametrize("law", OTHERS, ids=lambda law: law.name)
def test_bins_add_up_to_all_that_is_above_the_smallest(law: Law) -> None:
    # The 800 bins of 50 octaves; what is beyond them has a share of next to nothing.
    edges = 2.0 ** (np.arange(801) / 16)
    whole = Largest(edges[:-1], edges[1:], np.ones(800, np.int64), True)
    at = np.array(law.starts[0])
    assert np.exp(log_likelihoods(whole, law, at)).sum() == pytest.approx(1.0, abs=1e-4)


def test_sequences_needed_follow_the_law() -> None:
    scores = pareto(2.5, 200_000)
    law = power_law_of(Largest.of_scores(scores[scores >= 4.0]))
    assert law is not None
    expected = 10 / 50.0 ** (1 - 2.5)
    assert sequences_needed(law, len(scores), 50.0) == pytest.approx(expected, rel=0.1)


def test_the_other_half_takes_as_many_as_one_half_says() -> None:
    ratios = [held_out_ratio(pareto(2.5, 50_000, seed), 5.0, seed) for seed in range(60)]
    known = np.array([one for one in ratios if one is not None])
    assert len(known) == 60
    assert np.median(known) == pytest.approx(1.0, rel=0.2)
    assert ((known > 0.5) & (known < 2)).mean() >= 0.8
    assert held_out_ratio(pareto(2.5, 1000), 1e9, 0) is None


def test_a_simplex_finds_the_lowest_place_and_keeps_out_of_what_is_not_defined() -> None:
    def valley(at: np.ndarray) -> float:
        x, y = at
        return float("nan") if x < 0 else (1 - x) ** 2 + 100 * (y - x * x) ** 2

    at, value = minimise(valley, np.array([0.2, 2.0]), tolerance=1e-14)
    assert value < 1e-8
    np.testing.assert_allclose(at, 1.0, atol=1e-3)
