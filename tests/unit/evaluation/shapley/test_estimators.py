"""Estimators against enumeration, how they ask, how they end, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rayinfluence.errors import ConfigError, NumericsError
from rayinfluence.evaluation.shapley.estimators import (
    Coalition,
    Enumeration,
    Estimator,
    Permutations,
    SampleReuse,
    Stopping,
    _differences,
    everybody,
    play,
)
from rayinfluence.evaluation.shapley.semivalues import BANZHAF, SHAPLEY, Semivalue, exact
from rayinfluence.evaluation.subsets import group_draws

NAMES = ("ada", "bob", "cyd", "dee", "eve")
N = len(NAMES)
BETA = Semivalue("beta", 4, 1)
FOREVER = Stopping(1000, 0)
Utility = Callable[[list[Coalition]], NDArray[np.float64]]


@pytest.fixture(scope="module")
def table() -> NDArray[np.float64]:
    """Utilities of all coalitions, of two seeds and three queries: terms, and pairs of players."""
    generator = np.random.default_rng(3)
    terms, pairs = generator.normal(size=(N, 3)), generator.normal(size=(N, N, 3))
    rows = []
    for one in range(2**N):
        some = [g for g in range(N) if one >> g & 1]
        rows.append(terms[some].sum(0) + 0.3 * pairs[np.ix_(some, some)].sum((0, 1)))
    return np.stack(rows)[:, None] + np.zeros((1, 2, 1))


def of_table(table: NDArray[np.float64], asked: list[Coalition] | None = None) -> Utility:
    def utility(some: list[Coalition]) -> NDArray[np.float64]:
        if asked is not None:
            asked.extend(some)
        return table[some]

    return utility


SAMPLERS = [
    Permutations(SHAPLEY, N, FOREVER, 0.0, 0),
    Permutations(BETA, N, FOREVER, 0.0, 0),
    SampleReuse(BANZHAF, NAMES, FOREVER, 0),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda one: one.semivalue.name)
def test_draws_come_near_to_all_coalitions(sampler: Estimator, table: NDArray[np.float64]) -> None:
    found = sampler.found(play([sampler], of_table(table)))
    wanted = exact(sampler.semivalue, N, table)
    assert found.n_draws == 1000
    scores = (found.values_RGQ.mean(0) - wanted.mean(0)) / found.error_GQ
    assert np.abs(scores).max() < 4
    assert np.abs(found.values_RGQ - wanted).max() < 0.25


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda one: one.semivalue.name)
def test_standard_errors_are_of_the_size_of_errors(
    sampler: Estimator, table: NDArray[np.float64]
) -> None:
    """Over other draws, values are as far from the truth as their errors say."""
    wanted_GQ = exact(sampler.semivalue, N, table).mean(0)
    scores = []
    for draw in range(40):
        one = type(sampler)(**{**vars(sampler), "draw": draw, "stopping": Stopping(40, 0)})
        found = one.found(play([one], of_table(table)))
        scores.append((found.values_RGQ.mean(0) - wanted_GQ) / found.error_GQ)
    assert 0.85 < np.std(scores) < 1.2
    assert np.abs(np.mean(scores, axis=0)).max() < 0.6


def test_no_coalition_is_asked_for_twice_and_all_share_them(table: NDArray[np.float64]) -> None:
    asked: list[Coalition] = []
    some = [
        Permutations(SHAPLEY, N, Stopping(30, 0), 0.01, 0),
        Permutations(BETA, N, Stopping(30, 0), 0.01, 0),
        SampleReuse(BANZHAF, NAMES, Stopping(20, 0), 0),
    ]
    known = play(some, of_table(table, asked))
    assert len(asked) == len(set(asked)) == len(known)
    for one in some:
        alone = play([one], of_table(table))
        assert len(alone) <= one.most
        assert np.array_equal(one.found(known).values_RGQ, one.found(alone).values_RGQ)


def test_what_is_known_is_not_asked_for_again(table: NDArray[np.float64]) -> None:
    """Whoever was interrupted goes on to the same values."""
    sampler = Permutations(SHAPLEY, N, Stopping(30, 0), 0.0, 0)
    whole = play([sampler], of_table(table))
    asked: list[Coalition] = []
    half = dict(list(whole.items())[: len(whole) // 2])
    again = play([sampler], of_table(table, asked), half)
    assert not set(asked) & set(half)
    assert np.array_equal(sampler.found(again).values_RGQ, sampler.found(whole).values_RGQ)


@pytest.mark.parametrize("tolerance", [0.0, 0.4])
def test_orders_that_are_not_cut_short_add_up(table: NDArray[np.float64], tolerance: float) -> None:
    sampler = Permutations(SHAPLEY, N, Stopping(40, 0), tolerance, 1)
    one_query = table[..., :1]
    found = sampler.found(play([sampler], of_table(one_query)))
    span = one_query[-1] - one_query[0]
    gap = np.abs(found.values_RGQ.sum(axis=1) - span).max()
    if tolerance == 0:
        assert found.n_cut == 0
        assert gap < 1e-12
    else:
        assert found.n_cut > 0
        assert 1e-3 < gap <= tolerance * np.abs(span).max()


def test_an_order_is_cut_short_once_all_utilities_are_there() -> None:
    """The first two of 8 players decide one utility, and all of them another."""
    n = 8
    table = np.array([[[one & 3 == 3, one.bit_count()]] for one in range(2**n)], dtype=float)
    short = Permutations(SHAPLEY, n, Stopping(20, 0), 0.01, 0)
    asked: list[Coalition] = []
    found = short.found(play([short], of_table(table[..., :1], asked)))
    assert 10 < found.n_cut < 20  # in some orders one of the two is the last
    whole: list[Coalition] = []
    assert short.found(play([short], of_table(table, whole))).n_cut == 0
    assert len(asked) < len(whole)


def test_nothing_is_cut_short_where_all_and_none_are_alike() -> None:
    table = np.array([0.0, 1.0, 1.0, 0.0]).reshape(-1, 1, 1)
    sampler = Permutations(SHAPLEY, 2, Stopping(20, 0), 0.5, 0)
    found = sampler.found(play([sampler], of_table(table)))
    assert found.n_cut == 0


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda one: one.semivalue.name)
def test_draws_end_once_errors_are_small(sampler: Estimator, table: NDArray[np.float64]) -> None:
    wanted = 1.0
    one = type(sampler)(**{**vars(sampler), "stopping": Stopping(1000, wanted)})
    found = one.found(play([one], of_table(table)))
    span_Q = np.abs(table[-1] - table[0]).mean(0)
    assert 16 <= found.n_draws < 1000
    assert (found.error_GQ <= wanted * span_Q).all()
    fewer = type(sampler)(**{**vars(sampler), "stopping": Stopping(found.n_draws - 8, 0)})
    before = fewer.found(play([fewer], of_table(table)))
    assert found.n_draws == 16 or (before.error_GQ > wanted * span_Q).any()


def test_an_additive_game_is_known_after_the_first_look() -> None:
    table = np.arange(2**N, dtype=float).reshape(-1, 1, 1)  # bits, as a number
    sampler = Permutations(SHAPLEY, N, Stopping(3000, 0.01), 0.0, 0)
    found = sampler.found(play([sampler], of_table(table)))
    assert found.n_draws == 16
    assert found.values_RGQ[0, :, 0].tolist() == pytest.approx([1, 2, 4, 8, 16])


def test_coalitions_by_coins_are_those_of_the_farm_s_design() -> None:
    """Group draws that were trained before are the same subsets."""
    groups = {name: [place] for place, name in enumerate(NAMES)}
    subsets = group_draws(groups, 12, 7, 0)
    sampler = SampleReuse(BANZHAF, NAMES, FOREVER, 7)
    for number, subset in enumerate(subsets):
        out = [g for g in range(N) if not sampler.coalition(number) >> g & 1]
        assert list(subset.dropped) == out


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda one: one.semivalue.name)
def test_other_seeds_draw_otherwise(sampler: Estimator, table: NDArray[np.float64]) -> None:
    one, same, other = (
        type(sampler)(**{**vars(sampler), "stopping": Stopping(20, 0), "draw": draw})
        for draw in (0, 0, 1)
    )
    found = [each.found(play([each], of_table(table))).values_RGQ for each in (one, same, other)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_a_player_that_is_always_in_is_refused_before_anything_is_trained() -> None:
    for draw in range(1000):
        few = SampleReuse(BANZHAF, NAMES, Stopping(4, 0), draw)
        drawn = [few.coalition(number) for number in range(4)]
        if any(all(one >> g & 1 for one in drawn) for g in range(N)):
            with pytest.raises(ConfigError, match=r"of the first 4 coalitions .*have '"):
                few.refuse_one_sided()
            break
    else:
        pytest.fail("no draw has a player in all coalitions")
    SAMPLERS[2].refuse_one_sided()


def test_degrees_of_freedom_are_those_of_two_means() -> None:
    """Of 4 coalitions with a player and 12 without: of the fewer, as they vary more."""
    generator = np.random.default_rng(0)
    known = {one: generator.normal(size=(1, 1)) for one in range(2**N)}
    for one in known:
        known[one] = known[one] * (10 if one & 1 else 0.01)
    drawn = [one for one in known if one & 1][:4] + [one for one in known if not one & 1][:12]
    found = _differences(drawn, known, 1)
    assert found.freedom_GQ[0, 0] == pytest.approx(3, rel=1e-3)
    sides = [np.array([known[one].item() for one in some]) for some in (drawn[:4], drawn[4:])]
    square = sum(side.var(ddof=1) / len(side) for side in sides)
    assert found.error_GQ[0, 0] == pytest.approx(np.sqrt(square))
    alike = {one: np.zeros((1, 1)) for one in known}
    assert _differences(drawn, alike, 1).freedom_GQ[0, 0] == 3


def test_utilities_that_are_not_finite_are_refused() -> None:
    def utility(some: list[Coalition]) -> NDArray[np.float64]:
        return np.array([[[np.nan if one == 5 else 1.0]] for one in some])

    with pytest.raises(NumericsError, match="coalition of 2 of 3 players is not finite"):
        play([Enumeration(SHAPLEY, 3)], utility)


def test_enumeration_asks_for_all_and_errs_nowhere(table: NDArray[np.float64]) -> None:
    one = Enumeration(BETA, N)
    known = play([one], of_table(table))
    found = one.found(known)
    assert sorted(known) == list(range(2**N))
    assert everybody(N) in known
    assert np.array_equal(found.values_RGQ, exact(BETA, N, table))
    assert not found.error_GQ.any()
