"""How alike rankings and sets of tokens are, beside what the formulas say word by word."""

import itertools
import math
import random

import pytest

from rayinfluence.influence.rankings import (
    chance,
    likeness,
    nearest,
    overlap,
    rank_biased_overlap,
    rarities,
    share_of,
)


def naive_rbo(ours: list[int], theirs: list[int], p: float) -> float:
    """The sum as Webber et al. 2010 write it, with whole sets at every depth."""
    depth = min(len(ours), len(theirs))
    share = [len(set(ours[:d]) & set(theirs[:d])) / d for d in range(1, depth + 1)]
    series = sum(share[d - 1] * p**d for d in range(1, depth + 1))
    return share[-1] * p**depth + (1 - p) / p * series


@pytest.mark.parametrize("seed", range(20))
def test_rank_biased_overlap_is_the_sum_over_depths(seed: int) -> None:
    generator = random.Random(seed)
    ours, theirs = (generator.sample(range(30), generator.randint(1, 25)) for _ in range(2))
    for p in (0.5, 0.9, 0.98):
        expected = naive_rbo(ours, theirs, p)
        assert rank_biased_overlap(ours, theirs, p) == pytest.approx(expected, abs=1e-12)


def test_equal_rankings_have_all_in_common_and_others_nothing() -> None:
    assert rank_biased_overlap([3, 1, 2], [3, 1, 2]) == pytest.approx(1.0)
    assert rank_biased_overlap([3, 1, 2], [4, 5, 6]) == 0.0
    # The first places weigh most.
    swapped_first = rank_biased_overlap([1, 2, 3, 4], [2, 1, 3, 4])
    swapped_last = rank_biased_overlap([1, 2, 3, 4], [1, 2, 4, 3])
    assert swapped_first is not None
    assert swapped_last is not None
    assert swapped_first < swapped_last < 1
    assert rank_biased_overlap([], [1]) is None


def test_the_first_ten_have_the_weight_that_is_said_of_them() -> None:
    """Of the weight of each depth's share, what goes to the first 10 places (their equation 21)."""
    p, d = 0.9, 10
    series = math.fsum(p**i / i for i in range(1, d))
    weight = 1 - p ** (d - 1) + (1 - p) / p * d * (math.log(1 / (1 - p)) - series)
    assert f"{weight:.0%}" == "86%"


def test_overlap_by_chance_is_the_mean_over_all_orders() -> None:
    orders = list(itertools.permutations(range(5)))
    for k in range(1, 6):
        mean = sum(overlap(orders[0], order, k) for order in orders) / len(orders)
        assert mean / k == pytest.approx(chance(k, 5))
    assert chance(10, 4) == 1.0
    assert overlap("abc", "cxab", 2) == 0
    assert overlap("abc", "cxab", 3) == 2


def test_rare_tokens_weigh_more_and_what_is_everywhere_nothing() -> None:
    weights = rarities([[1, 2, 2], [1, 3], [1, 2]])
    assert weights[1] == 0.0
    assert weights[2] == pytest.approx(math.log(4 / 3))
    assert weights[3] == pytest.approx(math.log(4 / 2))
    assert weights[99] == pytest.approx(math.log(4))


def test_shares_and_likeness_are_of_weights_of_sets() -> None:
    weights = {1: 0.0, 2: 1.0, 3: 3.0}
    assert share_of([2, 3, 3], [3, 1], weights) == pytest.approx(3 / 4)
    assert share_of([1], [1], weights) == 0.0
    assert likeness([1, 2], [2, 3], weights) == pytest.approx(1 / 4)
    assert likeness([1], [1, 1], weights) == 1.0
    assert likeness([1], [], weights) == 0.0


def test_texts_are_as_alike_as_each_to_the_nearest_of_the_other_side() -> None:
    weights = {1: 1.0, 2: 1.0, 3: 1.0}
    # {1, 2} and {3}, beside {1}: 1/2 and 0, and of the one there the best is 1/2.
    assert nearest([[1, 2], [3]], [[1]], weights) == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert nearest([[1, 2], [3]], [[3], [2, 1]], weights) == 1.0
    assert nearest([], [[1]], weights) is None
