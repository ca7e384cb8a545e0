"""FLOPs of the matrix products that a function runs, and the rate that the machine can reach."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten


def _product(a: Any, b: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(a) * b[-1]


def _sum_product(_c: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(a) * b[-1]


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    batch, heads, n, d = q
    return 2 * batch * heads * n * k[-2] * (d + v[-1])


def _attention_backward(_grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    # Five products where the forward pass has two: scores again, and a gradient for each of q, k, v
    # and the weights.
    return _attention(q, k, v) * 5 // 2


#: Kernels of fused attention; each has one that goes back.
_FUSED = ("flash", "efficient", "cudnn")
#: What FlopCounterMode does not know: in-place products, the CPU's fused attention, and heads of
#: queries that share a head of keys.
_MAPPING: dict[Any, Any] = {
    # Its own counts of these do not take the dtype of the result that ours ask for.
    _aten.mm: _product,
    _aten.bmm: _product,
    _aten.addmm_: _sum_product,
    _aten.baddbmm_: _sum_product,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    **{getattr(_aten, f"_scaled_dot_product_{kind}_attention"): _attention for kind in _FUSED},
    **{
        getattr(_aten, f"_scaled_dot_product_{kind}_attention_backward"): _attention_backward
        for kind in _FUSED
    },
}


def counted(run: Callable[[], None]) -> int:
    """FLOPs of all matrix products and attention that a function runs (full, not causal)."""
    with FlopCounterMode(display=False, custom_mapping=_MAPPING) as counter:
        run()
    return int(counter.get_total_flops())


def peak(device: str, dtype: torch.dtype, seconds: float = 2.0, size: int | None = None) -> float:
    """The best rate [FLOP/s] of a large square matrix product on this machine, now."""
    size = size or (8192 if device == "cuda" else 2048)
    a = torch.randn(size, size, device=device).to(dtype)
    best, start = math.inf, time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - before)
    return 2 * size**3 / best
