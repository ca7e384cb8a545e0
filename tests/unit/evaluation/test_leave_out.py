"""Effects of leaving out, their errors, and the closed form of ridge regression."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.leave_out import agreement, effects, group_sums


def test_effects_are_differences_of_the_same_seed() -> None:
    full = np.array([[1.0], [5.0]])
    without = np.array([[[0.5]], [[4.9]]])
    found = effects(full, without)
    assert found.mean_GQ[0, 0] == pytest.approx(0.3)
    assert found.error_GQ[0, 0] == pytest.approx(0.4 / np.sqrt(2) / np.sqrt(2))
    assert found.resolved == 0.0


def test_of_one_seed_there_is_no_error() -> None:
    found = effects(np.array([[1.0]]), np.array([[[0.5]]]))
    assert np.isnan(found.error_GQ).all()
    assert np.isnan(found.resolved)


def test_a_standard_error_is_as_large_as_the_error() -> None:
    generator = np.random.default_rng(0)
    shape = (4, 500, 2)
    found = effects(np.zeros((4, 2)), -(0.3 + generator.standard_normal(shape)))
    assert (found.mean_GQ - 0.3).std() == pytest.approx(0.5, rel=0.1)
    assert np.sqrt((found.error_GQ**2).mean()) == pytest.approx(0.5, rel=0.1)


def test_a_group_has_the_sum_of_what_was_left_out() -> None:
    weights = np.array([[0, 0, 1], [1, 1, 0]], dtype=np.float32)
    assert group_sums(weights, np.array([[1.0], [2.0], [4.0]])).tolist() == [[3], [4]]


def test_agreement_is_of_order_and_of_values() -> None:
    measured = np.array([[1.0], [2.0], [9.0]])
    found = agreement(np.array([[10.0], [20.0], [30.0]]), measured)
    assert found.spearman_Q[0] == pytest.approx(1)
    assert found.pearson_Q[0] == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 9])[0, 1])


def test_leaving_out_of_a_ridge_regression_is_influence_over_one_minus_leverage() -> None:
    """w minimises |X w - y|^2 / 2 + l2 |w|^2 / 2, and the query is the prediction x_q w.

    The influence of row j is x_q H^-1 x_j r_j with H = X^T X + l2, r = y - X w; leaving it out
    takes off exactly that over 1 - h_j, with h_j = x_j H^-1 x_j.
    """
    generator = np.random.default_rng(0)
    X, y = generator.standard_normal((30, 4)), generator.standard_normal(30)
    queries, l2 = generator.standard_normal((6, 4)), 0.7

    def fitted(kept: np.ndarray) -> np.ndarray:
        H = X[kept].T @ X[kept] + l2 * np.eye(4)
        return np.linalg.solve(H, X[kept].T @ y[kept])

    everything = np.ones(30, dtype=bool)
    w = fitted(everything)
    without = np.array([queries @ fitted(np.arange(30) != j) for j in range(30)])
    measured = effects((queries @ w)[None], without[None]).mean_GQ
    H = X.T @ X + l2 * np.eye(4)
    influence_NQ = np.linalg.solve(H, X.T).T @ queries.T * (y - X @ w)[:, None]
    leverage = np.einsum("ni,in->n", X, np.linalg.solve(H, X.T))
    assert measured == pytest.approx(influence_NQ / (1 - leverage)[:, None], rel=1e-10)
    # And so the sums of scores agree with what was measured, and not wholly.
    left_out = (1 - np.eye(30)).astype(np.float32)
    found = agreement(group_sums(left_out, influence_NQ), measured)
    assert (found.pearson_Q > 0.97).all()
    assert (found.pearson_Q < 1 - 1e-6).all()
    exact = agreement(influence_NQ / (1 - leverage)[:, None], measured)
    assert exact.pearson_Q == pytest.approx(np.ones(6))
