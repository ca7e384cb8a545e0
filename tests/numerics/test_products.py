"""Sums of products: half of a symmetric one, and wide whatever the operands are."""

from __future__ import annotations

import pytest
import torch
from compare import assert_same
from device import DEVICE

from rayinfluence.curvature.products import (
    accumulation_dtype,
    add_gram,
    mirrored,
    operand_dtype,
    product,
)


@pytest.mark.parametrize("width", [1, 5, 128, 129, 300, 513])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_gram_matrix_by_triangles_is_the_whole_one(width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, width, generator=generator).to(DEVICE, dtype)
    total = torch.zeros(width, width, dtype=accumulation_dtype(dtype), device=DEVICE)
    for part in rows.split(15):
        add_gram(total, part)
    expected = rows.double().T @ rows.double()
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    assert_same(mirrored(total), expected, tolerance=tolerance)
    assert torch.equal(mirrored(total), mirrored(total).T)


def test_half_of_the_work_is_done() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    rows, total = torch.randn(64, 1024), torch.zeros(1024, 1024)
    mapping = {torch.ops.aten.addmm_: lambda c, a, b, *_, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        add_gram(total, rows)
    assert counter.get_total_flops() <= 0.57 * 2 * 64 * 1024**2


def test_bfloat16_operands_are_summed_in_float32() -> None:
    ones = torch.ones(1, 4096, device=DEVICE).bfloat16()
    small = torch.full((4096, 1), 1 + 2**-7, device=DEVICE).bfloat16()
    found = product(ones, small)
    assert found.dtype == torch.float32
    assert float(found) == 4096 * (1 + 2**-7)  # in bfloat16 the last bits would be lost
    batch = product(ones.expand(3, 1, -1), small.expand(3, -1, 1))
    assert torch.equal(batch, found.expand(3, 1, 1))


def test_a_cpu_multiplies_bfloat16_in_float32_and_a_gpu_as_it_is() -> None:
    assert operand_dtype(torch.bfloat16, torch.device("cpu")) == torch.float32
    assert operand_dtype(torch.float64, torch.device("cpu")) == torch.float64
    assert operand_dtype(torch.bfloat16, torch.device("cuda")) == torch.bfloat16
    assert operand_dtype(torch.float32, torch.device("cuda")) == torch.float32
