"""Histograms of all scores: a monoid, bins that never waver, shares within their bounds."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rayinfluence.influence import tails
from rayinfluence.influence.concentration import power_law, share_of_largest
from rayinfluence.influence.tails import BINS_PER_OCTAVE, Tail, Tails, bin_of, lower_edge

N_QUERIES = 3
TINY, LARGEST = 5e-324, np.finfo(np.float64).max
POSITIVE = st.floats(TINY, LARGEST)
#: Sums of a few of them stay finite.
SCORE = st.one_of(
    st.floats(-1e300, 1e300), st.sampled_from([0.0, -0.0, TINY, -TINY, 1.0, -1.0, 2.2250738e-308])
)
ROWS = st.lists(st.lists(SCORE, min_size=N_QUERIES, max_size=N_QUERIES), max_size=30)


def matrix(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(len(rows), N_QUERIES)


def same(left: Tails, right: Tails) -> bool:
    pairs = zip(vars(left).values(), vars(right).values(), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def tail_of(sizes: list[float] | np.ndarray) -> Tail:
    return Tails.of(np.array(sizes, dtype=np.float64)[:, None]).of_query(0, 1)


# Bins.


def test_edges_are_the_powers_they_should_be() -> None:
    exact = [math.ldexp(2 ** (j / BINS_PER_OCTAVE), -1) for j in range(BINS_PER_OCTAVE)]
    assert_allclose(tails._EDGES, exact, rtol=4e-16, atol=0)
    assert tails._EDGES[0] == 0.5


@given(POSITIVE)
@example(TINY)
@example(LARGEST)
@example(2.2250738585072014e-308)
def test_a_number_lies_in_its_bin(size: float) -> None:
    bins = bin_of(np.array([size]))
    lower, upper = float(lower_edge(bins)[0]), float(lower_edge(bins + 1)[0])
    assert lower <= size <= upper
    # Edges belong to the bin that they begin, but where subnormal numbers cannot tell them apart.
    assert size < upper or size < 1e-307 or size == LARGEST


@given(st.lists(POSITIVE, min_size=2, max_size=20))
def test_bins_are_in_the_order_of_numbers(sizes: list[float]) -> None:
    assert (np.diff(bin_of(np.sort(sizes))) >= 0).all()


@pytest.mark.parametrize("exponent", [-1074, -1022, -3, 0, 1, 1023])
def test_powers_of_two_begin_bins(exponent: int) -> None:
    power = np.array([math.ldexp(1.0, exponent)])
    assert bin_of(power) == BINS_PER_OCTAVE * exponent
    below = np.nextafter(power, 0.0)
    if below > 0:
        assert bin_of(below) < BINS_PER_OCTAVE * exponent


# Counting.


@given(ROWS)
def test_every_score_is_counted_once_by_sign(rows: list[list[float]]) -> None:
    scores = matrix(rows)
    found = Tails.of(scores)
    for query in range(N_QUERIES):
        for sign in (1, -1):
            sizes = sign * scores[:, query]
            sizes = sizes[sizes > 0]
            tail = found.of_query(query, sign)
            assert tail.count == len(sizes)
            assert_array_equal(tail.bins, np.unique(bin_of(sizes)))
            assert (np.diff(tail.bins) > 0).all()
            assert_allclose(tail.total, math.fsum(sizes), rtol=1e-14)
            assert (tail.counts > 0).all()


def test_minus_zero_is_zero_and_in_no_bin() -> None:
    assert same(Tails.of(np.array([[0.0, -0.0]])), Tails.empty())
    assert same(Tails.of(np.zeros((0, 4))), Tails.empty())
    assert same(Tails.of(np.zeros((4, 0))), Tails.empty())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_has_no_bin_is_passed_over_for_its_query_alone(bad: float) -> None:
    scores = np.random.default_rng(0).standard_t(2, (50, 2))
    spoiled = scores.copy()
    spoiled[7, 0] = bad
    found, whole, alone = (
        Tails.of(some) for some in (spoiled, scores, np.delete(scores, 7, axis=0))
    )
    for sign in (1, -1):
        for ours, theirs in (
            (found.of_query(0, sign), alone.of_query(0, sign)),
            (found.of_query(1, sign), whole.of_query(1, sign)),
        ):
            assert ours.bins.tolist() == theirs.bins.tolist()
            assert ours.counts.tolist() == theirs.counts.tolist()
            assert ours.sums.tobytes() == theirs.sums.tobytes()


@pytest.mark.parametrize("numbers", [1, 100, 10**6])
def test_the_size_of_tables_changes_no_bit(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).standard_t(2, (50, 7))
    whole = Tails.of(scores)
    monkeypatch.setattr(tails, "_TABLE_NUMBERS", numbers)
    assert same(Tails.of(scores), whole)


# The monoid.


@given(ROWS, st.data())
def test_any_grouping_of_splits_gives_the_whole(rows: list[list[float]], data) -> None:
    scores = matrix(rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
    parts = [Tails.of(part) for part in np.split(scores, cuts)]
    while len(parts) > 1:
        place = data.draw(st.integers(0, len(parts) - 2))
        parts[place : place + 2] = [parts[place].merge(parts[place + 1])]
    whole = Tails.of(scores)
    assert_array_equal(parts[0].codes_E, whole.codes_E)
    assert_array_equal(parts[0].counts_E, whole.counts_E)
    assert_allclose(parts[0].sums_E, whole.sums_E, rtol=1e-14)


@given(ROWS)
def test_nothing_is_the_identity(rows: list[list[float]]) -> None:
    whole = Tails.of(matrix(rows))
    assert same(whole.merge(Tails.empty()), whole)
    assert same(Tails.empty().merge(whole), whole)


# The share of the largest.


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=60), st.integers(1, 70))
def test_the_share_is_within_its_bound(sizes: list[float], k: int) -> None:
    found = share_of_largest(tail_of(sizes), k)
    assert found is not None
    share, error = found
    exact = [Fraction(size) for size in sorted(sizes, reverse=True)]
    expected = float(sum(exact[:k]) / sum(exact))
    assert abs(share - expected) <= error + 1e-12
    assert 0 < share <= 1 + 1e-12
    # A bin is 4.4 % wide, so no bin can leave more than that in doubt.
    assert error <= 0.023


def test_the_share_of_a_known_sample() -> None:
    sizes = np.random.default_rng(1).pareto(1.5, 50_000) + 1
    largest = np.sort(sizes)[::-1]
    share, error = share_of_largest(tail_of(sizes), 500)
    assert abs(share - largest[:500].sum() / sizes.sum()) <= error
    assert 0 < error < 2e-3
    assert share_of_largest(tail_of([]), 3) is None
    assert share_of_largest(tail_of([1.0, 2.0]), 2) == (1.0, 0.0)
    assert share_of_largest(tail_of([1.0, 2.0]), 9) == (1.0, 0.0)
    # Four alike: the bin says nothing of which is which, and its sum says all.
    share, error = share_of_largest(tail_of([1.0] * 4), 1)
    assert (share, error) == (0.25, 0.0)


# The exponent.


@pytest.mark.parametrize("exponent", [1.5, 2.2, 3.0, 5.0])
def test_the_exponent_of_a_power_law_is_found_within_its_error(exponent: float) -> None:
    generator = np.random.default_rng(7)
    deviations = []
    for _ in range(30):
        sizes = 0.3 * (1 - generator.random(20_000)) ** (-1 / (exponent - 1))
        law = power_law(tail_of(sizes), 2_000)
        assert law is not None
        assert 2_000 <= law.count == (sizes >= law.start).sum()
        deviations.append((law.exponent - exponent) / law.error)
    # The mean and the spread of 30 standardised deviations.
    assert abs(np.mean(deviations)) < 3 / math.sqrt(30)
    assert 0.6 < np.std(deviations) < 1.5


def test_the_exponent_is_where_the_likelihood_is_largest() -> None:
    sizes = np.random.default_rng(3).lognormal(0, 2, 5_000)
    tail = tail_of(sizes)
    law = power_law(tail, 100)
    assert law is not None
    first = np.searchsorted(tail.lower, law.start)
    lower, upper, counts = tail.lower[first:], tail.upper[first:], tail.counts[first:]

    def log_likelihood(exponent: float) -> float:
        weights = (lower / law.start) ** (1 - exponent) - (upper / law.start) ** (1 - exponent)
        return float((counts * np.log(weights)).sum())

    best = log_likelihood(law.exponent)
    for step in (1e-3, 1e-2, 0.1):
        assert log_likelihood(law.exponent + step) < best
        assert log_likelihood(law.exponent - step) < best
    curvature = (log_likelihood(law.exponent + 1e-3) - 2 * best) + log_likelihood(
        law.exponent - 1e-3
    )
    assert law.error == pytest.approx(1 / math.sqrt(-curvature / 1e-6), rel=1e-3)


def test_one_bin_has_no_exponent() -> None:
    assert power_law(tail_of([]), 5) is None
    assert power_law(tail_of([1.0, 1.0]), 5) is None
    law = power_law(tail_of([1.0, 4.0]), 5)
    assert law is not None
    assert (law.count, law.start) == (2, 1.0)
