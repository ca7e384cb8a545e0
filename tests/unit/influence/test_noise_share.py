"""What the largest scores hold where nothing stands out."""

import numpy as np
import pytest

from rayinfluence.influence.concentration import share_of_noise


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_the_largest_of_normal_scores_hold_what_is_said(share: float) -> None:
    scores = np.sort(np.random.default_rng(0).normal(size=200_000))[::-1]
    held = scores[: int(share * len(scores))].sum() / scores[scores > 0].sum()
    assert share_of_noise(share) == pytest.approx(held, rel=0.02)


def test_the_largest_half_holds_all() -> None:
    assert share_of_noise(0.5) == share_of_noise(0.9) == 1.0
    assert share_of_noise(0.01) == pytest.approx(0.0668, abs=1e-4)
