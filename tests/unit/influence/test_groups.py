"""Sums of scores per group."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from rayinfluence.influence import groups
from rayinfluence.influence.groups import MISSING, OTHER, GroupSums

#: Three sequences, two queries; powers of two, so that sums are exact.
SCORES = np.array([[1.0, -2.0], [-4.0, 8.0], [16.0, 0.0]])


def test_positive_negative_and_squared_scores_are_summed_apart() -> None:
    sums = GroupSums.of(SCORES, {"source": ["web", "books", "web"]})
    assert sums.counts == {("source", "books"): 1, ("source", "web"): 2}
    assert_array_equal(sums.sums_3Q["source", "web"], [[17.0, 0.0], [0.0, -2.0], [257.0, 4.0]])
    assert_array_equal(sums.sums_3Q["source", "books"], [[0.0, 8.0], [-4.0, 0.0], [16.0, 64.0]])


def test_every_key_sums_over_all_sequences() -> None:
    sums = GroupSums.of(SCORES, {"source": ["web", "books", "web"], "year": ["1", "", "2"]})
    for key in ("source", "year"):
        groups = [group for group in sums.counts if group[0] == key]
        assert sum(sums.counts[group] for group in groups) == 3
        total = sum(sums.sums_3Q[group] for group in groups)
        assert_array_equal(total, [[17.0, 8.0], [-4.0, -2.0], [273.0, 68.0]])
    assert ("year", "") in sums.counts


def test_nothing_gives_no_groups() -> None:
    assert GroupSums.of(SCORES, {}) == GroupSums()
    assert GroupSums.of(np.zeros((0, 2)), {"source": []}) == GroupSums()


def test_merging_adds_and_leaves_both_sides_as_they_were() -> None:
    left = GroupSums.of(SCORES, {"source": ["web", "books", "web"]})
    right = GroupSums.of(SCORES[:1], {"source": ["news"]}).merge(
        GroupSums.of(SCORES[1:2], {"source": ["web"]})
    )
    before = {group: array.copy() for group, array in left.sums_3Q.items()}
    merged = left.merge(right)
    assert merged.counts == {("source", "books"): 1, ("source", "news"): 1, ("source", "web"): 3}
    assert_array_equal(merged.sums_3Q["source", "web"], [[17.0, 8.0], [-4.0, -2.0], [273.0, 68.0]])
    assert_array_equal(merged.sums_3Q["source", "news"], [[1.0, 0.0], [0.0, -2.0], [1.0, 4.0]])
    assert left.counts == {("source", "books"): 1, ("source", "web"): 2}
    for group, array in before.items():
        assert_array_equal(left.sums_3Q[group], array)


def test_empty_is_the_identity() -> None:
    sums = GroupSums.of(SCORES, {"source": ["web", "books", "web"]})
    for merged in (sums.merge(GroupSums()), GroupSums().merge(sums)):
        assert merged.counts == sums.counts
        for group, array in sums.sums_3Q.items():
            assert_array_equal(merged.sums_3Q[group], array)


@pytest.mark.parametrize("cut", [1, 2])
def test_splits_merge_to_the_whole(cut: int) -> None:
    sources = ["web", "books", "web"]
    whole = GroupSums.of(SCORES, {"source": sources})
    parts = GroupSums.of(SCORES[:cut], {"source": sources[:cut]}).merge(
        GroupSums.of(SCORES[cut:], {"source": sources[cut:]})
    )
    assert parts.counts == whole.counts
    for group, array in whole.sums_3Q.items():
        assert_array_equal(parts.sums_3Q[group], array)


# A key with more values than anybody reads.


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MOST_VALUES", 3)


def of_urls(urls: list[str]) -> GroupSums:
    scores = np.array([[float(place + 1)] for place in range(len(urls))])
    return GroupSums.of(scores, {"url": urls})


def test_values_beyond_the_bound_are_one_group_with_its_count(few: None) -> None:
    urls = [f"u{place % 7}" for place in range(20)]
    sums = of_urls([*urls, MISSING])
    values = {value for _, value in sums.counts}
    assert len(values - {OTHER, MISSING}) == 3
    assert sum(sums.counts.values()) == 21
    assert sums.counts["url", MISSING] == 1
    for value in values - {OTHER, MISSING}:
        assert sums.counts["url", value] == urls.count(value)
    rest = [place + 1 for place, url in enumerate(urls) if url not in values]
    assert sums.counts["url", OTHER] == len(rest)
    squares = sum(score**2 for score in rest)
    assert_array_equal(sums.sums_3Q["url", OTHER], [[sum(rest)], [0], [squares]])


def test_as_many_values_as_the_bound_are_all_kept(few: None) -> None:
    assert ("url", OTHER) not in of_urls(["a", "b", "c", MISSING]).counts


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(-8, 8)), min_size=1, max_size=30),
    st.data(),
)
def test_what_is_kept_does_not_depend_on_how_sequences_were_dealt_and_merged(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whole scores, so that sums are exact: same counts and sums for any splits, in any tree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "MOST_VALUES", 4)

        def of(part: list[tuple[int, int]]) -> GroupSums:
            scores = np.array([[float(score)] for _, score in part]).reshape(-1, 1)
            return GroupSums.of(scores, {"url": [f"u{value}" for value, _ in part]})

        whole = of(rows)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5)))
        edges = [0, *cuts, len(rows)]
        parts = [of(rows[a:b]) for a, b in pairwise(edges)]
        while len(parts) > 1:
            place = data.draw(st.integers(0, len(parts) - 2))
            parts[place : place + 2] = [reduce(GroupSums.merge, parts[place : place + 2])]
        assert parts[0].counts == whole.counts
        for group, sums in whole.sums_3Q.items():
            assert_array_equal(parts[0].sums_3Q[group], sums)
