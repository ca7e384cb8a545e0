"""Which sequences a model is trained on."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.subsets import (
    Subset,
    added,
    additions,
    drops,
    full,
    group_draws,
    halves,
    without,
)

IDS = np.array([*range(40), *range(2**32, 2**32 + 21)], dtype=np.int64)
HALVES = [(8, 9, 15, 18), (0, 1, 2, 3), (0, 1, 3, 4)]
DROPS = [(18, 4294967311, 4294967312), (9, 10, 4294967308)]
FULL = "c33def4fdd8b7ce819800915d6862941"


def test_more_can_be_asked_for_and_those_before_stay() -> None:
    groups = {name: [place] for place, name in enumerate("abcde")}
    assert halves(IDS, 10, 0, 3)[:4] == halves(IDS, 4, 0, 3)
    assert drops(IDS, 0.1, 9, 0, 3)[:2] == drops(IDS, 0.1, 2, 0, 3)
    assert additions(IDS, 30, 0, 3)[:5] == additions(IDS, 5, 0, 3)
    assert group_draws(groups, 9, 0, 3)[:5] == group_draws(groups, 5, 0, 3)


def test_what_is_drawn_is_what_it_was() -> None:
    """A table of models that were trained is of no use once other subsets are drawn."""
    assert [s.dropped[:4] for s in halves(IDS, 3, 0, 0)] == HALVES
    assert [s.dropped for s in drops(IDS, 0.05, 2, 0, 0)] == DROPS
    assert full(0).digest == FULL


def test_halves_come_in_pairs_of_which_each_has_what_the_other_lacks() -> None:
    found = halves(IDS, 5, 0, 0)
    for one, other in zip(found[0:4:2], found[1:4:2], strict=True):
        assert sorted([*one.dropped, *other.dropped]) == IDS.tolist()
        assert abs(len(one.dropped) - len(other.dropped)) == 1
    assert len({subset.dropped for subset in found}) == 5
    assert found[0].dropped != halves(IDS, 1, 1, 0)[0].dropped


def test_seeds_of_training_share_what_is_drawn() -> None:
    one, other = halves(IDS, 2, 0, 0)[1], halves(IDS, 2, 0, 5)[1]
    assert one.dropped == other.dropped
    assert one.digest != other.digest
    assert one.of_seed(5) == other


def test_a_share_of_the_sequences_is_dropped_and_one_at_least() -> None:
    assert {len(subset.dropped) for subset in drops(IDS, 0.1, 5, 0, 0)} == {6}
    assert {len(subset.dropped) for subset in drops(IDS, 1e-6, 5, 0, 0)} == {1}
    assert drops(IDS, 0.1, 1, 0, 0)[0].dropped != drops(IDS, 0.11, 1, 0, 0)[0].dropped[:6]


def test_each_sequence_is_dropped_about_as_often_as_any_other() -> None:
    counts = sum(1 - subset.weights(IDS) for subset in drops(IDS, 0.25, 800, 0, 0))
    expected = 800 * 15 / 61
    # Of a binomial, five standard deviations.
    assert abs(counts - expected).max() < 5 * np.sqrt(expected * (1 - 15 / 61))


def test_groups_are_in_by_coins_of_their_own() -> None:
    groups = {"a": [3, 1], "b": [7], "c": [2**32]}
    found = group_draws(groups, 400, 0, 0)
    for name, ids in groups.items():
        out = np.array([set(ids) <= set(subset.dropped) for subset in found])
        none = np.array([not set(ids) & set(subset.dropped) for subset in found])
        assert (out ^ none).all()
        assert 160 < out.sum() < 240, name
    assert len({subset.dropped for subset in found}) == 8
    fewer = group_draws({"b": [7]}, 400, 0, 0)
    assert [7 in a.dropped for a in found] == [7 in b.dropped for b in fewer]


def test_weights_are_how_often_a_sequence_is_seen() -> None:
    subset = Subset("add", 0, dropped=(1, 2**32), added=(0, 5, 5))
    weights = subset.weights(IDS)
    assert weights[[0, 1, 2, 5, 40]].tolist() == [2, 0, 1, 3, 0]
    assert weights.sum() == len(IDS) - 2 + 3
    assert (full(3).weights(IDS) == 1).all()
    assert full(3).is_full
    assert not subset.is_full
    with pytest.raises(ValueError, match="999"):
        without([3, 999], 0, 0).weights(IDS)


def test_the_same_sequences_are_the_same_training_whoever_asks() -> None:
    assert without([5, 3], 4, 0).digest == Subset("drop", 0, (3, 5), share=0.1).digest
    assert added([5], 0, 0).digest != without([5], 0, 0).digest
    assert without([], 0, 0).digest == full(0).digest
