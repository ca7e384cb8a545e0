"""How scores tell changed labels from others."""

from __future__ import annotations

import numpy as np
import pytest

from rayinfluence.evaluation.mislabel import found_first


def test_first_are_as_many_as_are_changed() -> None:
    scores, changed = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])
    assert found_first(scores, changed) == pytest.approx(1 / 2)


def test_where_none_is_changed_there_is_nothing_to_find() -> None:
    none = np.zeros(3, dtype=np.bool_)
    assert np.isnan(found_first(np.arange(3.0), none))
