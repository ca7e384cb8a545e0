"""Values of games whose values are known in closed form, and the axioms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.evaluation.shapley.semivalues import BANZHAF, SHAPLEY, Semivalue, exact

ALL = [SHAPLEY, BANZHAF, Semivalue("beta", 4, 1), Semivalue("beta", 1, 16)]
Game = Callable[[set[int]], float]


def values(semivalue: Semivalue, n: int, game: Game) -> list[float]:
    """Exact values of a game of sets of players."""
    utilities = [game({g for g in range(n) if one >> g & 1}) for one in range(2**n)]
    return exact(semivalue, n, np.array(utilities).reshape(-1, 1, 1))[0, :, 0].tolist()


def voting(quota: float, *weights: float) -> Game:
    return lambda some: float(sum(weights[g] for g in some) >= quota)


def gloves(n_left: int) -> Game:
    return lambda some: min(sum(g < n_left for g in some), sum(g >= n_left for g in some))


def airport(*costs: float) -> Game:
    return lambda some: max((costs[g] for g in some), default=0)


@pytest.mark.parametrize("semivalue", ALL, ids=str)
def test_an_additive_game_has_its_own_terms_as_values(semivalue: Semivalue) -> None:
    terms = [3.0, -1.0, 0.0, 0.25]
    found = values(semivalue, 4, lambda some: 7 + sum(terms[g] for g in some))
    assert found == pytest.approx(terms, abs=1e-12)


def test_a_vote_that_one_party_nearly_has_alone() -> None:
    game = voting(51, 50, 49, 1)
    assert values(SHAPLEY, 3, game) == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    assert values(BANZHAF, 3, game) == pytest.approx([3 / 4, 1 / 4, 1 / 4])


def test_gloves() -> None:
    assert values(SHAPLEY, 3, gloves(1)) == pytest.approx([2 / 3, 1 / 6, 1 / 6])
    assert values(BANZHAF, 4, gloves(2)) == pytest.approx([1 / 2] * 4)


def test_a_runway_is_paid_for_by_who_needs_its_parts() -> None:
    expected = [2 / 3, 2 / 3 + 3 / 2, 2 / 3 + 3 / 2 + 4]
    assert values(SHAPLEY, 3, airport(2, 5, 9)) == pytest.approx(expected)


def test_a_large_alpha_puts_weight_on_small_coalitions() -> None:
    """In the first game only who is first adds something, in the second only who is last."""

    def first(some: set[int]) -> float:
        return float(len(some) > 0)

    def last(some: set[int]) -> float:
        return float(len(some) == 5)

    small, large = Semivalue("beta", 4, 1), Semivalue("beta", 1, 4)
    # B(1, 8) / B(4, 1) = (1 / 8) / (1 / 4)
    assert values(small, 5, first) == pytest.approx([1 / 2] * 5)
    assert values(large, 5, last) == pytest.approx([1 / 2] * 5)
    assert values(SHAPLEY, 5, first) == pytest.approx([1 / 5] * 5)
    # B(5, 4) / B(4, 1) = (4! 3! / 8!) / (1 / 4)
    assert values(small, 5, last) == pytest.approx([1 / 70] * 5)


def test_beta_values_without_bound_are_those_of_leaving_one_out() -> None:
    game = airport(2, 5, 9)
    found = values(Semivalue("beta", 1, 1e9), 3, game)
    wanted = [game({0, 1, 2}) - game({0, 1, 2} - {g}) for g in range(3)]
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize("semivalue", ALL, ids=str)
def test_sizes_have_shares_that_add_up_to_one(semivalue: Semivalue, n: int) -> None:
    assert semivalue.shares(n).sum() == pytest.approx(1)
    assert len(semivalue.shares(n)) == n


@given(st.lists(st.floats(-10, 10), min_size=16, max_size=16))
def test_beta_of_one_and_one_is_shapley_s_and_adds_up(utilities: list[float]) -> None:
    utilities_SRQ = np.array(utilities).reshape(-1, 1, 1)
    found = exact(SHAPLEY, 4, utilities_SRQ)
    assert exact(Semivalue("beta", 1, 1), 4, utilities_SRQ) == pytest.approx(found, abs=1e-12)
    assert found.sum() == pytest.approx(utilities[-1] - utilities[0], abs=1e-9)


@pytest.mark.parametrize("semivalue", ALL, ids=str)
@given(utilities=st.lists(st.floats(-10, 10), min_size=8, max_size=8))
def test_who_adds_nothing_has_nothing_and_equals_have_the_same(
    semivalue: Semivalue, utilities: list[float]
) -> None:
    """Of four players the last adds nothing; the first two are exchanged without a difference."""
    fair = list(utilities)
    fair[0b001], fair[0b101] = fair[0b010], fair[0b110]
    found = values(semivalue, 4, lambda some: fair[sum(1 << g for g in some if g < 3)])
    assert found[3] == pytest.approx(0, abs=1e-12)
    assert found[0] == pytest.approx(found[1], abs=1e-9)


def test_values_are_of_each_seed_and_each_utility_by_itself() -> None:
    utilities_SRQ = np.random.default_rng(0).normal(size=(8, 2, 3))
    found = exact(SHAPLEY, 3, utilities_SRQ)
    assert found.shape == (2, 3, 3)
    alone = exact(SHAPLEY, 3, utilities_SRQ[:, 1:, 2:])
    assert np.array_equal(found[1:, :, 2:], alone)
    with pytest.raises(ValueError, match=r"7 utilities are not of all 2\^3"):
        exact(SHAPLEY, 3, utilities_SRQ[:7])
