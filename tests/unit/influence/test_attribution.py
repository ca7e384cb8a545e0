"""Flags on survivors: scores at one token, and sequences that repeat another."""

from __future__ import annotations

import pytest

from rayinfluence.influence.attribution import is_spurious, near_duplicates


@pytest.mark.parametrize(
    ("scores", "spurious"),
    [
        ([0.0, 5.0, 0.0, 0.0], True),
        ([0.0, -5.0, 0.0, 0.0], True),
        ([1.0, 1.0, 1.0, 1.0], False),
        ([3.0, -3.0], True),  # 1 / sqrt(2) > 2/3: two tokens cannot share it widely enough
        ([1.0, 1.0, 1.0], False),  # 1 / sqrt(3)
        ([10.0, 0.1, -0.1, 0.1], True),
        ([1.0, 0.5, -0.5], False),  # sqrt(1.5) / 2 = 0.61
        ([], False),
        ([0.0, 0.0], False),
    ],
)
def test_a_score_at_one_token_is_spurious(scores: list[float], spurious: bool) -> None:
    assert is_spurious(scores) is spurious


def test_the_ratio_is_compared_with_two_thirds() -> None:
    """||(x, 1)||_2 / ||(x, 1, 1)||_1 crosses 2/3 as x grows: sqrt(x^2 + 2) / (x + 2) = 2/3."""
    crossing = (16 + (16**2 - 4 * 5 * 2) ** 0.5) / 10
    assert not is_spurious([crossing * 0.999, 1.0, 1.0])
    assert is_spurious([crossing * 1.001, -1.0, 1.0])


def test_the_scale_of_scores_does_not_matter() -> None:
    for scale in (1e-12, 1.0, 1e12):
        assert is_spurious([scale, 0.0, 0.0])
        assert not is_spurious([scale, scale, scale])


def test_near_duplicates_point_to_the_best_of_their_kind() -> None:
    text, other = list(range(60)), list(range(100, 160))
    late_edit = [*text[:-1], 999]  # 55 of 57 shingles in common
    assert near_duplicates([text, other, text, late_edit, other]) == [None, None, 0, 0, 1]


def test_sharing_half_is_not_a_near_duplicate() -> None:
    assert near_duplicates([list(range(40)), list(range(20, 60))]) == [None, None]


def test_the_share_is_four_fifths_of_the_shingles() -> None:
    """n tokens have n - 4 shingles; the longer one holds all of the shorter's."""
    assert near_duplicates([list(range(104)), list(range(84))]) == [None, 0]  # 80 / 100
    assert near_duplicates([list(range(104)), list(range(83))]) == [None, None]  # 79 / 100


def test_duplicates_do_not_chain() -> None:
    """Each points to a sequence that is itself no duplicate."""
    first, second, third = (list(range(start, start + 104)) for start in (0, 10, 20))
    assert near_duplicates([first, second]) == [None, 0]  # 90 / 110
    assert near_duplicates([second, third]) == [None, 0]
    assert near_duplicates([first, second, third]) == [None, 0, None]  # 80 / 120 with the first


def test_short_sequences_are_compared_whole() -> None:
    assert near_duplicates([[1, 2], [1, 2], [2, 1], [1]]) == [None, 0, None, None]


def test_nothing_gives_nothing() -> None:
    assert near_duplicates([]) == []
