"""A comparison that explains itself."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_same(
    actual: Tensor | float,
    expected: Tensor | float,
    what: str = "values",
    tolerance: float = 1e-10,
    scale: float | None = None,
) -> None:
    """Every difference is at most ``tolerance`` times the scale.

    The scale is the largest expected magnitude when it is not given.
    """
    actual = torch.as_tensor(actual, dtype=torch.float64).cpu()
    expected = torch.as_tensor(expected, dtype=torch.float64).cpu()
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    allowed = tolerance * (float(expected.abs().max()) if scale is None else scale)
    difference = (actual - expected).abs()
    wrong = ~(difference <= allowed)  # NaN is wrong
    if not bool(wrong.any()):
        return
    worst = int(torch.nan_to_num(difference, nan=torch.inf).argmax())
    ours, theirs = float(actual.flatten()[worst]), float(expected.flatten()[worst])
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape))
    ratio = ours / theirs if theirs else torch.nan
    raise AssertionError(
        f"{what}: {int(wrong.sum())} of {wrong.numel()} entries differ; worst at {index}: "
        f"{ours:.12g}, expected {theirs:.12g} (ratio {ratio:.6g}); "
        f"error {abs(ours - theirs):.3g}, allowed {allowed:.3g}"
    )
