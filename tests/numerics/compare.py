"""A comparison that explains itself."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_same(
    actual: Tensor | float, expected: Tensor | float, what: str = "", tolerance: float = 1e-10
) -> None:
    """Every difference is at most ``tolerance`` times the largest expected magnitude."""
    actual = torch.as_tensor(actual, dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    scale = float(expected.abs().max())
    difference = (actual - expected).abs()
    if bool((difference <= tolerance * scale).all()):  # also false where a value is NaN
        return
    worst = int(torch.nan_to_num(difference, nan=torch.inf).argmax())
    ours, theirs = float(actual.flatten()[worst]), float(expected.flatten()[worst])
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape))
    count = int((~(difference <= tolerance * scale)).sum())
    ratio = ours / theirs if theirs else torch.nan
    raise AssertionError(
        f"{what or 'values'} differ in {count} of {expected.numel()} entries; worst at {index}: "
        f"{ours:.12g}, expected {theirs:.12g} (ratio {ratio:.6g}); "
        f"error {abs(ours - theirs):.3g}, allowed {tolerance * scale:.3g}"
    )
