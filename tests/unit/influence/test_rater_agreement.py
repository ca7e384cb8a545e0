"""Krippendorff's alpha beside values that he published, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.influence.agreement import MISSING, Scale, alpha, coincidences

#: Four observers, twelve units, five categories: Krippendorff 2011, section D.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
)


@pytest.mark.parametrize(("scale", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_published_values(scale: Scale, published: float) -> None:
    found_UCC = coincidences(PUBLISHED - 1, 5)
    assert found_UCC.sum() == 40  # ratings that can be paired, as there
    assert alpha(found_UCC.sum(axis=0)[None], scale)[0] == pytest.approx(published, abs=5e-4)


def test_two_observers_of_two_categories() -> None:
    # Section A of the same: ten articles, and 0.095.
    ratings = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]])
    found = alpha(coincidences(ratings, 2).sum(axis=0)[None], "nominal")
    assert found[0] == pytest.approx(0.095, abs=5e-4)


def test_by_hand() -> None:
    # Ratings 0 0 | 0 1 | 2 2: of six, one pair of three disagrees in both orders. By chance
    # (6 - 1) * 2 / (3 * 1 + 1 * 3 + 3 * 2 + 2 * 3 + 1 * 2 + 2 * 1) = 10 / 22.
    ratings = np.array([[0, 0, 2], [0, 1, 2]])
    found = alpha(coincidences(ratings, 3).sum(axis=0)[None], "nominal")
    assert found[0] == pytest.approx(1 - 10 / 22)


def test_agreement_is_one_and_chance_is_none() -> None:
    generator = np.random.default_rng(0)
    some = generator.integers(0, 4, (1, 4000))
    for scale in ("nominal", "ordinal"):
        same = coincidences(np.repeat(some, 3, axis=0), 4).sum(axis=0)[None]
        assert alpha(same, scale)[0] == pytest.approx(1.0)
        chance = coincidences(generator.integers(0, 4, (3, 4000)), 4).sum(axis=0)[None]
        assert alpha(chance, scale)[0] == pytest.approx(0.0, abs=0.03)


def test_what_cannot_disagree_has_no_alpha() -> None:
    one_category = coincidences(np.zeros((2, 5), np.int64), 3).sum(axis=0)
    one_rater = coincidences(np.array([[0, 1, 2]]), 3).sum(axis=0)
    assert np.isnan(alpha(np.stack([one_category, one_rater]), "ordinal")).all()
    assert one_rater.sum() == 0
    nobody = coincidences(np.full((2, 3), MISSING), 3)
    assert nobody.sum() == 0
