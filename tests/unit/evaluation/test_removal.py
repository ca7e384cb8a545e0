"""What is removed, and what that does."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.removal import losses, n_removed, top


def test_as_many_are_removed_as_the_share_says_and_never_none_or_all() -> None:
    assert [n_removed(share, 1000) for share in (0.01, 1e-6, 1.0)] == [10, 1, 999]


def test_the_largest_scores_are_the_top_and_those_without_a_score_are_last() -> None:
    assert top(np.array([1.0, np.nan, 3.0, 3.0, -np.inf]), 2).tolist() == [2, 3]
    assert top(np.array([1.0, np.nan, 3.0, 3.0, -np.inf]), 4).tolist() == [0, 2, 3, 4]


def test_a_loss_is_the_mean_over_seeds_of_what_f_fell_by() -> None:
    full, without = np.array([[-1.0, -2.0], [-3.0, -2.0]]), np.array([[-2.0, -2.0], [-3.0, -1.0]])
    assert losses(full, without) == pytest.approx([0.5, -0.5])
