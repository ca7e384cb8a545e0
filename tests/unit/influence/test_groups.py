"""Sums of scores per group."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rayinfluence.influence.groups import GroupSums

#: Three sequences, two queries; powers of two, so that sums are exact.
SCORES = np.array([[1.0, -2.0], [-4.0, 8.0], [16.0, 0.0]])


def test_positive_and_negative_scores_are_summed_apart() -> None:
    sums = GroupSums.of(SCORES, {"source": ["web", "books", "web"]})
    assert sums.counts == {("source", "books"): 1, ("source", "web"): 2}
    assert_array_equal(sums.sums_2Q["source", "web"], [[17.0, 0.0], [0.0, -2.0]])
    assert_array_equal(sums.sums_2Q["source", "books"], [[0.0, 8.0], [-4.0, 0.0]])


def test_every_key_sums_over_all_sequences() -> None:
    sums = GroupSums.of(SCORES, {"source": ["web", "books", "web"], "year": ["1", "", "2"]})
    for key in ("source", "year"):
        groups = [group for group in sums.counts if group[0] == key]
        assert sum(sums.counts[group] for group in groups) == 3
        total = sum(sums.sums_2Q[group] for group in groups)
        assert_array_equal(total, [[17.0, 8.0], [-4.0, -2.0]])
    assert ("year", "") in sums.counts


def test_nothing_gives_no_groups() -> None:
    assert GroupSums.of(SCORES, {}) == GroupSums()
    assert GroupSums.of(np.zeros((0, 2)), {"source": []}) == GroupSums()


def test_merging_adds_and_leaves_both_sides_as_they_were() -> None:
    left = GroupSums.of(SCORES, {"source": ["web", "books", "web"]})
    right = GroupSums.of(SCORES[:1], {"source": ["news"]}).merge(
        GroupSums.of(SCORES[1:2], {"source": ["web"]})
    )
    before = {group: array.copy() for group, array in left.sums_2Q.items()}
    merged = left.merge(right)
    assert merged.counts == {("source", "books"): 1, ("source", "news"): 1, ("source", "web"): 3}
    assert_array_equal(merged.sums_2Q["source", "web"], [[17.0, 8.0], [-4.0, -2.0]])
    assert_array_equal(merged.sums_2Q["source", "news"], [[1.0, 0.0], [0.0, -2.0]])
    assert left.counts == {("source", "books"): 1, ("source", "web"): 2}
    for group, array in before.items():
        assert_array_equal(left.sums_2Q[group], array)


def test_empty_is_the_identity() -> None:
    sums = GroupSums.of(SCORES, {"source": ["web", "books", "web"]})
    for merged in (sums.merge(GroupSums()), GroupSums().merge(sums)):
        assert merged.counts == sums.counts
        for group, array in sums.sums_2Q.items():
            assert_array_equal(merged.sums_2Q[group], array)


@pytest.mark.parametrize("cut", [1, 2])
def test_splits_merge_to_the_whole(cut: int) -> None:
    sources = ["web", "books", "web"]
    whole = GroupSums.of(SCORES, {"source": sources})
    parts = GroupSums.of(SCORES[:cut], {"source": sources[:cut]}).merge(
        GroupSums.of(SCORES[cut:], {"source": sources[cut:]})
    )
    assert parts.counts == whole.counts
    for group, array in whole.sums_2Q.items():
        assert_array_equal(parts.sums_2Q[group], array)
