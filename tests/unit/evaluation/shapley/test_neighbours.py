"""Values by nearest neighbours, against the game that they are values of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.evaluation.shapley.neighbours import neighbour_values
from rayinfluence.evaluation.shapley.semivalues import SHAPLEY, exact


def by_enumeration(distances: list[int], matches: list[bool], k: int) -> list[float]:
    """Shapley's values of the vote of the nearest, by all coalitions."""
    n = len(distances)
    order = sorted(range(n), key=lambda i: (distances[i], i))
    utilities = []
    for one in range(2**n):
        nearest = [i for i in order if one >> i & 1][:k]
        utilities.append(sum(matches[i] for i in nearest) / k)
    return exact(SHAPLEY, n, np.array(utilities).reshape(-1, 1, 1))[0, :, 0].tolist()


@given(
    points=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=6),
    k=st.integers(1, 8),
)
def test_they_are_shapley_s_of_the_vote(points: list[tuple[int, bool]], k: int) -> None:
    distances, matches = [d for d, _ in points], [m for _, m in points]
    found = neighbour_values(np.array(distances, dtype=float), np.array(matches), k)
    assert found.tolist() == pytest.approx(by_enumeration(distances, matches, k), abs=1e-12)


def test_they_add_up_to_the_vote_of_all() -> None:
    generator = np.random.default_rng(0)
    distances_N, matches_N = generator.random(1000), generator.random(1000) < 0.2
    found = neighbour_values(distances_N, matches_N, 7)
    assert found.sum() == pytest.approx(matches_N[np.argsort(distances_N)[:7]].mean())


def test_of_one_neighbour_the_nearest_has_most() -> None:
    """By hand: 1 right, 2 wrong, 3 right; v of a coalition is whether its nearest is right."""
    found = neighbour_values(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]), 1)
    assert found.tolist() == pytest.approx([5 / 6, -1 / 6, 1 / 3])


@pytest.mark.parametrize("k", [4, 5, 1000])
def test_where_all_vote_distances_play_no_part(k: int) -> None:
    """v is a sum over points of m / K: each adds that to whomever it joins."""
    matches = [True, False, True, True]
    for distances in ([1, 2, 3, 4], [4, 3, 2, 1], [2, 2, 1, 9]):
        found = neighbour_values(np.array(distances, dtype=float), np.array(matches), k)
        assert found.tolist() == pytest.approx([one / k for one in matches], abs=1e-15)
        assert found.tolist() == pytest.approx(by_enumeration(distances, matches, k), abs=1e-12)


def test_of_nobody_there_are_none() -> None:
    assert neighbour_values(np.zeros(0), np.zeros(0, bool), 3).shape == (0,)
