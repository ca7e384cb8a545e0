"""The top-k is a commutative, idempotent monoid, down to the bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayinfluence.influence.topk import TopK

N_QUERIES = 2
#: Few values, so that ties are common; some of them not positive.
SCORES = st.sampled_from([-2.0, -1e-300, -0.0, 0.0, 1e-300, 0.5, 1.0, 1.5, 1e300])


@st.composite
def corpora(draw) -> tuple[dict[int, list[float]], list[list[int]], int]:
    """Scores by sequence id, splits that may overlap and repeat but miss nothing, and k."""
    ids = draw(st.lists(st.integers(0, 2**40), unique=True, max_size=12))
    scores = {i: draw(st.lists(SCORES, min_size=N_QUERIES, max_size=N_QUERIES)) for i in ids}
    splits = draw(st.lists(st.lists(st.sampled_from(ids or [0]), max_size=6), max_size=6))
    splits = splits if ids else []
    missing = set(ids) - {i for split in splits for i in split}
    return scores, [*splits, sorted(missing)], draw(st.integers(1, 15))


def top(scores: dict[int, list[float]], ids: list[int], k: int) -> TopK:
    values = np.array([scores[i] for i in ids], dtype=np.float64).reshape(len(ids), N_QUERIES)
    return TopK.of(values, np.array(ids, dtype=np.int64), k)


def same(left: TopK, right: TopK) -> bool:
    return (
        left.scores_QK.tobytes() == right.scores_QK.tobytes()
        and left.ids_QK.tobytes() == right.ids_QK.tobytes()
        and left.scores_QK.shape == right.scores_QK.shape
    )


def grouped(draw, parts: list[TopK]) -> TopK:
    """Merge in an order and a grouping of Hypothesis's choice."""
    parts = list(parts)
    while len(parts) > 1:
        left = parts.pop(draw(st.integers(0, len(parts) - 1)))
        right = parts.pop(draw(st.integers(0, len(parts) - 1)))
        parts.append(left.merge(right))
    return parts[0]


@given(corpora())
def test_the_best_are_kept_in_order(corpus) -> None:
    scores, splits, k = corpus
    merged = TopK.empty(N_QUERIES, k)
    for split in splits:
        merged = merged.merge(top(scores, split, k))
    for query in range(N_QUERIES):
        expected = sorted((-s[query], i) for i, s in scores.items() if s[query] > 0)[:k]
        values, ids = merged.of_query(query)
        assert ids.tolist() == [i for _, i in expected]
        assert values.tolist() == [-negated for negated, _ in expected]
        assert merged.scores_QK.shape == (N_QUERIES, k)


@given(corpora(), st.data())
def test_any_order_grouping_and_repetition_gives_the_same_bytes(corpus, data) -> None:
    scores, splits, k = corpus
    parts = [top(scores, split, k) for split in splits]
    repeated = data.draw(st.lists(st.sampled_from(parts), max_size=5))
    whole = top(scores, list(scores), k)
    assert same(grouped(data.draw, parts), whole)
    assert same(grouped(data.draw, [*repeated, *parts, *repeated]), whole)


@given(corpora())
def test_merging_is_idempotent_and_has_an_identity(corpus) -> None:
    scores, splits, k = corpus
    for split in splits:
        part = top(scores, split, k)
        assert same(part.merge(part), part)
        assert same(part.merge(TopK.empty(N_QUERIES, k)), part)
        assert same(TopK.empty(N_QUERIES, k).merge(part), part)


def test_ties_go_to_the_lower_id_and_repeats_count_once() -> None:
    scores, ids = np.array([[1.0], [2.0], [1.0], [2.0], [1.0]]), np.array([9, 4, 3, 4, 3])
    values, kept = TopK.of(scores, ids, 10).of_query(0)
    assert values.tolist() == [2.0, 1.0, 1.0]
    assert kept.tolist() == [4, 3, 9]


def test_only_positive_scores_are_kept() -> None:
    scores = np.array([[0.0, -1.0], [-0.0, 3.0], [2.0, -5.0]])
    kept = TopK.of(scores, np.arange(3), 3)
    assert kept.of_query(0)[1].tolist() == [2]
    assert kept.of_query(1)[1].tolist() == [1]


@pytest.mark.parametrize("n", [4, 40])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_passed_over_for_its_query_alone(bad: float, n: int) -> None:
    scores, ids = np.random.default_rng(0).standard_normal((n, 2)), np.arange(n)
    for sign in (1, -1):
        whole = TopK.of(sign * scores, ids, 3)
        lost = int(whole.ids_QK[0, 0])
        spoiled = scores.copy()
        spoiled[lost, 0] = bad
        kept = TopK.of(sign * spoiled, ids, 3)
        alone = TopK.of(sign * np.delete(scores, lost, axis=0), np.delete(ids, lost), 3)
        assert kept.scores_QK[0].tobytes() == alone.scores_QK[0].tobytes()
        assert kept.ids_QK[0].tolist() == alone.ids_QK[0].tolist()
        assert kept.scores_QK[1].tobytes() == whole.scores_QK[1].tobytes()
        assert kept.ids_QK[1].tolist() == whole.ids_QK[1].tolist()
