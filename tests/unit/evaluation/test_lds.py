"""LDS and its ceiling where both are known."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.lds import by_seed, ceiling, error_of_subsets, linear_scores, predicted

S, N, Q = 40, 60, 5


def weights(generator: np.random.Generator, share: float = 0.5) -> np.ndarray:
    return (generator.random((S, N)) > share).astype(np.float32)


def test_scores_of_an_exactly_linear_model_have_one() -> None:
    generator = np.random.default_rng(0)
    scores, base = generator.standard_normal((N, Q)), generator.standard_normal(Q)
    kept = weights(generator)
    values = (base + (kept - 1) @ scores)[None]
    assert linear_scores(predicted(kept, scores), values) == pytest.approx(np.ones(Q))
    assert linear_scores(predicted(kept, 1e6 * scores), values) == pytest.approx(np.ones(Q))
    assert linear_scores(predicted(kept, -scores), values) == pytest.approx(-np.ones(Q))


def test_what_is_dropped_is_taken_off_and_what_is_added_comes_on() -> None:
    scores = np.array([[1.0], [10.0], [100.0]])
    found = predicted(np.array([[0, 1, 1], [1, 2, 1], [0, 2, 1]], dtype=np.float32), scores)
    assert found[:, 0].tolist() == [-1, 10, 9]


def test_a_score_that_is_missing_matters_where_its_sequence_was_dropped_alone() -> None:
    scores = np.array([[np.nan], [1.0]])
    assert predicted(np.array([[1, 0]], dtype=np.float32), scores)[0, 0] == -1
    assert np.isnan(predicted(np.array([[0, 1]], dtype=np.float32), scores)[0, 0])


def test_seeds_are_averaged_first_and_a_subset_that_lacks_one_is_left_out() -> None:
    rows = by_seed(["b", "a", "c", "a", "b", "d"], [7, 7, 7, 0, 0, 0])
    assert rows.tolist() == [[4, 3], [0, 1]]
    values = np.array([[5.0, 1.0], [2.0, 4.0], [0.0, 0.0]])[:, :, None]
    # The means are 7 / 3 and 5 / 3, while the first seed alone has them the other way round.
    said = np.array([[1.0], [2.0]])
    assert linear_scores(said, values).tolist() == [-1]
    assert linear_scores(said, values[1:2]).tolist() == [1]


def test_nothing_that_every_seed_has_is_nothing() -> None:
    assert by_seed(["a", "b"], [0, 1]).shape == (2, 0)
    assert by_seed([], []).shape == (0, 0)


def noisy(n_seeds: int, signal: float, subsets: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Effects of subsets with noise of variance 1 for each seed, and the effects themselves."""
    generator = np.random.default_rng(n_seeds)
    true = signal * generator.standard_normal((subsets, Q))
    values = true + generator.standard_normal((n_seeds, subsets, Q))
    return values, true


@pytest.mark.parametrize("n_seeds", [2, 3, 6])
@pytest.mark.parametrize("signal", [0.5, 1.0])
def test_the_ceiling_is_what_knowing_the_effects_themselves_would_have(
    n_seeds: int, signal: float
) -> None:
    from rayinfluence.influence.correlations import spearman

    values, true = noisy(n_seeds, signal)
    found = ceiling(values)
    assert found is not None
    # Ranks make the formula an approximation, and the correlation that they have is sqrt(share).
    assert found.mean == pytest.approx(spearman(true, values.mean(axis=0)).mean(), abs=0.02)
    share = signal**2 / (signal**2 + 1 / n_seeds)
    assert found.mean == pytest.approx(np.sqrt(share), abs=0.03)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high


def test_noise_alone_has_a_ceiling_near_zero_and_one_seed_has_none() -> None:
    values, _ = noisy(2, 0.0)
    found = ceiling(values)
    assert found is not None
    assert found.mean < 0.2
    alone, _ = noisy(1, 1.0)
    assert ceiling(alone) is None


def test_a_query_of_which_nothing_changes_has_no_score() -> None:
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((N, Q))
    kept = weights(generator)
    values = (kept - 1) @ scores
    values[:, 2] = 0.25
    found = linear_scores(predicted(kept, scores), values[None])
    assert np.isnan(found).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("together", [1, 2])
def test_the_error_of_subsets_is_what_other_subsets_do(together: int) -> None:
    """Of queries that have much in common, beside the spread over many draws of subsets."""
    generator = np.random.default_rng(0)
    n_sequences, n_subsets, n_queries = 60, 40, 5
    common = generator.standard_normal((n_sequences, 1))
    truth_NQ = common + 0.5 * generator.standard_normal((n_sequences, n_queries))
    scores_NQ = truth_NQ + generator.standard_normal((n_sequences, 1))
    means, errors = [], []
    for _ in range(60):
        coins = generator.integers(0, 2, (n_subsets // together, n_sequences))
        weights_SN = np.concatenate([coins, 1 - coins][:together])
        folds = list(range(len(coins))) * together
        predicted_SQ, values_SQ = weights_SN @ scores_NQ, weights_SN @ truth_NQ
        means.append(linear_scores(predicted_SQ, values_SQ[None]).mean())
        errors.append(error_of_subsets(predicted_SQ, values_SQ[None], folds))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.25)


def test_few_or_empty_subsets_have_no_error() -> None:
    values = np.arange(8.0).reshape(4, 2)
    assert error_of_subsets(values, values[None], [0, 0, 1, 1]) is None
    assert error_of_subsets(values, values[None], [0, 1, 2, 3]) == 0.0
    assert error_of_subsets(np.zeros((4, 2)), values[None], [0, 1, 2, 3]) is None
