"""What carries a survivor's score, whether it holds, and sequences that repeat another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rayinfluence.influence.attribution import (
    Carrier,
    carrier,
    reproduces,
    shingles,
)
from rayinfluence.influence.attribution import near_duplicates as near_duplicates_of


def of(scores: Sequence[float], completion: str = "") -> Carrier:
    """The carrier among tokens t0, t1, ... of which the first is predicted by nothing."""
    texts = [f" t{place}" for place in range(len(scores) + 1)]
    asked = completion.split()
    ids = [texts.index(f" {word}") if f" {word}" in texts else 99 for word in asked]
    return carrier([*scores, 0.0], range(len(texts)), texts, ids, [f" {word}" for word in asked])


@pytest.mark.parametrize("n", [4, 5, 9, 100, 4096])
def test_concentration_means_the_same_for_every_length(n: int) -> None:
    """0 for scores of one size, 1 for a single one, whatever n tokens could have."""
    assert of([1.0, -1.0] * (n // 2) + [1.0] * (n % 2)).concentration == pytest.approx(0, abs=1e-12)
    alone = [0.0] * n
    alone[n // 2] = -5.0
    assert of(alone).concentration == pytest.approx(1)
    assert of([3.0, *[1.0] * (n - 1)]).concentration == pytest.approx(
        (math.sqrt(n) * math.sqrt(9 + n - 1) / (3 + n - 1) - 1) / (math.sqrt(n) - 1)
    )


@pytest.mark.parametrize("scores", [[], [5.0], [5.0, 0.0], [0.0, -5.0, 0.0], [0.0] * 50])
def test_a_short_sequence_is_not_blamed_for_being_short(scores: list[float]) -> None:
    assert of(scores, "t1 t2") == Carrier(None, None, None)


def test_the_token_that_carries_the_score_is_the_one_that_is_predicted() -> None:
    """Entry t of token scores is about the prediction of token t + 1."""
    found = of([0.1, -0.2, 9.0, 0.3, 0.1])
    assert (found.position, found.in_completion) == (3, False)
    assert of([0.1, -9.0, 0.0, 0.3, 0.1]).position == 2


def test_no_token_carries_what_others_outweigh() -> None:
    assert of([3.0, -1.0, 1.0, 1.0]).position is None
    assert of([3.01, -1.0, 1.0, 1.0]).position == 1
    assert of([1.0, 1.0, 1.0, 1.0]).position is None


def test_a_match_with_the_completion_is_named_with_or_without_its_space() -> None:
    scores = [0.1, 0.1, 9.0, 0.1]
    assert of(scores, "t3 t9").in_completion is True
    assert of(scores, "t4").in_completion is False
    texts = ["a", "b", "c", "1807", "."]
    same = carrier([*scores, 0.0], range(5), texts, [77], [" 1807"])
    assert same.in_completion is True
    blank = carrier([*scores, 0.0], range(5), [" "] * 5, [77], ["\n"])
    assert blank.in_completion is False


def test_the_scale_of_scores_does_not_matter() -> None:
    for scale in (1e-12, 1.0, 1e12):
        assert of([scale, 0.0, 0.0, 0.0]) == of([1.0, 0.0, 0.0, 0.0])


def test_tokens_of_random_scores_are_carried_by_none() -> None:
    generator = np.random.default_rng(0)
    found = [of(generator.standard_normal(n).tolist()) for n in range(8, 300)]
    assert sum(one.position is not None for one in found) <= 2
    assert all(one.concentration is not None and one.concentration < 0.6 for one in found)


def test_a_score_reproduces_within_a_tenth_of_itself() -> None:
    for score in (-50.0, 1e-9, 50.0):
        assert reproduces(score, score)
        assert reproduces(score, 1.09 * score)
        assert not reproduces(score, 1.11 * score)
        assert not reproduces(score, -score)
    assert not reproduces(1.0, math.nan)


def near_duplicates(sequences: list[list[int]]) -> list[int | None]:
    return near_duplicates_of([shingles(one) for one in sequences])


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
