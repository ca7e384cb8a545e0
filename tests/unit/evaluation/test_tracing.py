"""Recall and reciprocal ranks of documents."""

from __future__ import annotations

import pytest

from rayinfluence.evaluation.tracing import mean_recall, recall_at, reciprocal_rank


def test_recall_is_of_the_most_that_there_can_be() -> None:
    assert recall_at(["a", "b", "a", "c"], {"a", "c", "d"}, 2) == pytest.approx(1 / 2)
    assert recall_at(["a", "c"], {"a"}, 2) == 1.0
    assert mean_recall({"q": ["a"], "r": ["b"]}, {"q": {"a"}, "r": {"a"}}) == 0.5


def test_a_reciprocal_rank_is_of_the_first_that_is_right() -> None:
    assert reciprocal_rank(["x", "x", "y", "a", "b"], {"a", "b"}) == pytest.approx(1 / 3)
    assert reciprocal_rank(["a"], {"a"}) == 1.0
    assert reciprocal_rank(["x", "y"], {"a"}) == 0.0


def test_without_anything_that_is_right_there_is_neither() -> None:
    with pytest.raises(ValueError, match="at least one relevant"):
        recall_at(["a"], set())
    with pytest.raises(ValueError, match="at least one relevant"):
        reciprocal_rank(["a"], set())
