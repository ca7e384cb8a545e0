"""How splits are dealt into rows, how partials are merged, and when a silence is too long."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.corpus.shards import RowGroup
from rayinfluence.corpus.splits import Split
from rayinfluence.dataflow.compute.partial import FAN_IN, MergeTree, Partial
from rayinfluence.dataflow.jobs.scan import Pending
from rayinfluence.dataflow.jobs.watch import Leaders, keep_leaders
from rayinfluence.dataflow.runners.ray import runner as cluster
from rayinfluence.dataflow.runners.ray.actors import from_row, to_row
from rayinfluence.dataflow.runners.ray.runner import bundles
from rayinfluence.errors import StageError
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK


def pending(count: int) -> list[Pending]:
    return [
        Pending(Split(i, "a", i * 10, i, (RowGroup(10, 100, str(i)),), f"{i:032x}"), (0, 2))
        for i in range(count)
    ]


@given(st.integers(0, 3000), st.integers(1, 40))
def test_rows_hold_all_splits_in_order_and_end_with_single_ones(count: int, actors: int) -> None:
    items = pending(count)
    rows = bundles(items, actors)
    assert [item for row in rows for item in row] == items
    lengths = [len(row) for row in rows]
    assert lengths == sorted(lengths, reverse=True)
    assert max(lengths, default=1) <= 64
    # What one row holds is a small share of what was left when it was cut.
    left = count
    for length in lengths:
        assert length <= max(1, left // (8 * actors))
        left -= length


def test_rows_for_many_splits_are_few() -> None:
    assert len(bundles(pending(50_000), 2)) < 1200


def test_a_row_comes_back_as_it_was() -> None:
    items = pending(3)
    assert from_row(to_row(items)) == items


def partial(seed: int) -> Partial:
    generator = np.random.default_rng(seed)
    scores, ids = generator.normal(size=(4, 2)), np.arange(4) + 4 * seed
    return Partial(
        proponents=TopK.of(scores, ids, 3),
        opponents=TopK.of(-scores, ids, 3),
        groups=GroupSums.of(scores, {"k": ["a", "b", "a", "b"]}),
        tails=Tails.of(scores),
        n_sequences=4,
        n_tokens=4,
    )


def levels(partials: list[Partial]) -> Partial:
    """The tree as it is defined: level by level."""
    while len(partials) > 1:
        groups = [partials[i : i + FAN_IN] for i in range(0, len(partials), FAN_IN)]
        partials = [reduce(Partial.merge, group) for group in groups]
    return partials[0]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 128, 200, 64 * 64 + 1])
def test_the_stack_merges_in_the_tree_of_fan_in_64(count: int) -> None:
    partials = [partial(seed % 97) for seed in range(count)]
    tree = MergeTree()
    most = 0
    for one in partials:
        tree.add(one)
        most = max(most, sum(len(level) for level in tree._levels))
    found, expected = tree.total(), levels(partials)
    assert most < FAN_IN * 3
    assert found.n_sequences == expected.n_sequences == 4 * count
    for key, sums in expected.groups.sums_3Q.items():
        assert np.array_equal(found.groups.sums_3Q[key], sums)


def test_a_long_silence_is_an_error_and_news_begin_it_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    deadline = cluster._Deadline(60)
    for moved in (0, 1, 0):
        now[0] += 50
        deadline.check(moved)
    now[0] += 11
    with pytest.raises(StageError, match=r"for 60 s \(`runner.stall_seconds`\).*same command"):
        deadline.check(0)


def test_of_equal_leaders_the_first_sequence_leads() -> None:
    leaders: Leaders = {}
    for found in ({"q": (1.0, 9)}, {"q": (1.0, 3)}, {"q": (0.5, 1)}, {"r": (-1.0, 2)}):
        keep_leaders(leaders, found)
    assert leaders == {"q": (1.0, 3), "r": (-1.0, 2)}
