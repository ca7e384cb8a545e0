"""What scores say of trainings, and figures where both sides are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rayinfluence.evaluation.claims import Known, Questions, claims
from rayinfluence.evaluation.leave_out import Effects
from rayinfluence.evaluation.referees import (
    GROUPS,
    RECALL,
    REMOVAL,
    TAIL_PATCH,
    Outcomes,
    figures,
)

N, Q = 30, 4
IDS = np.arange(100, 100 + N)
GENERATOR = np.random.default_rng(0)
SCORES = GENERATOR.standard_normal((N, Q)).astype(np.float32)
KEPT = (GENERATOR.random((12, N)) > 0.5).astype(np.float32)
WITHOUT = (np.arange(N) % 5 != np.arange(5)[:, None]).astype(np.float32)
ASKED = Questions(
    IDS,
    {"half": KEPT},
    3,
    (0, 2),
    WITHOUT,
    (101, 129),
    Known(
        tuple(f"d{n // 2}" for n in range(N)),
        (frozenset({"d0", "d7"}), frozenset(), frozenset({"d3"}), frozenset({"d14"})),
    ),
    2,
)


def test_first_sequences_are_the_largest_and_have_their_ids() -> None:
    said = claims(ASKED, SCORES)
    assert set(said.removed) == {0, 2}
    assert said.removed[2] == tuple(sorted((IDS[np.argsort(-SCORES[:, 2])[:3]]).tolist()))
    assert [len(ids) for ids in said.patched] == [2] * Q
    assert set(said.patched[2]) < set(said.removed[2])


def test_groups_have_sums_and_added_sequences_their_scores() -> None:
    said = claims(ASKED, SCORES)
    expected = [SCORES[np.arange(N) % 5 == group].sum(axis=0) for group in range(5)]
    assert said.groups_GQ == pytest.approx(np.array(expected), abs=1e-6)
    assert said.added_KQ.tolist() == SCORES[[1, 29]].astype(np.float64).tolist()


def test_documents_come_where_the_best_of_their_sequences_is() -> None:
    scores = np.tile(np.arange(N, dtype=np.float32)[::-1, None], (1, Q))
    said = claims(ASKED, scores)
    assert said.reciprocal_Q[[0, 2, 3]] == pytest.approx([1, 1 / 4, 1 / 15])
    assert said.recall_Q[[0, 2, 3]] == pytest.approx([1, 1, 0])
    assert np.isnan([said.recall_Q[1], said.reciprocal_Q[1]]).all()
    unknown = claims(replace(ASKED, known=None), scores)
    assert np.isnan(unknown.recall_Q).all()


def test_a_method_that_is_exactly_right_has_the_best_figures() -> None:
    """Where f is linear in what was seen, by the scores over N, all referees agree."""
    delta = SCORES.astype(np.float64) / N
    base = GENERATOR.standard_normal(Q)
    values = base + (KEPT - 1) @ delta
    groups = (1 - WITHOUT.astype(np.float64)) @ delta
    became = Outcomes(
        {"half": np.stack([values, values])},
        Effects(groups, np.zeros_like(groups)),
        delta[[1, 29]],
    )
    nothing = np.full(Q, np.nan)
    found = figures(claims(ASKED, SCORES), became, nothing, nothing, np.full(Q, 1 / N))
    lds = found.lds("half")
    assert lds is not None
    assert (lds.mean, lds.low, lds.high, lds.n) == pytest.approx((1, 1, 1, Q))
    agreement = found.mean(GROUPS)
    assert agreement is not None
    assert agreement.mean == pytest.approx(1)
    assert found.calibration is not None
    assert found.calibration.slope.mean == pytest.approx(1)
    assert found.calibration.n_pairs == 2 * Q
    assert found.mean(REMOVAL) is None
    recall = found.mean(RECALL)
    assert recall is not None
    assert recall.n == 3


def test_queries_of_which_no_change_is_predicted_have_no_part_in_a_calibration() -> None:
    became = Outcomes({}, None, SCORES[[1, 29]].astype(np.float64) / N)
    copy, nothing = np.full(Q, 1 / N), np.full(Q, np.nan)
    copy[2] = np.nan
    found = figures(claims(ASKED, SCORES), became, nothing, nothing, copy)
    assert found.calibration is not None
    assert found.calibration.n_pairs == 2 * (Q - 1)
    assert found.calibration.slope.mean == pytest.approx(1)


def test_what_predicts_no_change_has_no_calibration_and_differences_are_paired() -> None:
    became = Outcomes({}, None, SCORES[:2].astype(np.float64))
    said = claims(ASKED, SCORES)
    losses, patches = np.array([0.2, np.nan, 0.4, np.nan]), np.full(Q, 0.1)
    ours = figures(said, became, losses, patches, None)
    theirs = figures(said, became, losses - 0.05, patches, None)
    assert ours.calibration is None
    over = ours.over(theirs, REMOVAL)
    assert over is not None
    assert (over.mean, over.n) == pytest.approx((0.05, 2))
    patch = ours.mean(TAIL_PATCH)
    assert patch is not None
    assert patch.mean == pytest.approx(0.1)
    assert ours.lds("half") is None
