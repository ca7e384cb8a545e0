"""How scores tell changed labels from others."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.mislabel import area, found_first


def test_an_area_is_how_often_a_changed_line_is_before_another() -> None:
    scores, changed = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])
    assert area(scores, changed) == pytest.approx(3 / 4)
    assert area(-scores, changed) == pytest.approx(1 / 4)
    assert area(np.ones(4), changed) == pytest.approx(1 / 2)


def test_an_area_is_that_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 8, 50).astype(np.float64)
    changed = generator.random(50) < 0.3
    ours, others = scores[changed][:, None], scores[~changed][None]
    assert area(scores, changed) == pytest.approx(((ours > others) + (ours == others) / 2).mean())


def test_first_are_as_many_as_are_changed() -> None:
    scores, changed = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])
    assert found_first(scores, changed) == pytest.approx(1 / 2)


def test_where_none_is_changed_there_is_nothing_to_find() -> None:
    none = np.zeros(3, dtype=np.bool_)
    assert np.isnan(area(np.arange(3.0), none))
    assert np.isnan(area(np.arange(3.0), ~none))
    assert np.isnan(found_first(np.arange(3.0), none))
