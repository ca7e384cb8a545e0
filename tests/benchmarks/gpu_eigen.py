"""Part d: eigendecompositions of wide covariances, and how orthogonal the vectors are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from gpu_device import DEVICE, TOY, Clock, Step, timed
from torch import Tensor

_WIDTHS = (24, 48) if TOY else (4096, 8960, 18944)
#: Widths on a CPU; wider ones are extrapolated by their cubes.
_ON_CPU = (24,) if TOY else (2048, 4096)


def steps(clock: Clock) -> Iterator[tuple[str, Step]]:
    """The device in both dtypes, narrow to wide; then the CPU, by threads."""
    threads = torch.get_num_threads()
    if DEVICE == "cuda":
        torch.linalg.eigh(torch.eye(64, device=DEVICE))  # loads the library
    rates: dict[str, float] = {}
    for width in _WIDTHS:
        for dtype in (torch.float32, torch.float64):
            expected = rates.get(str(dtype), 0.0) * width**3
            if expected > clock():
                yield f"{DEVICE}, {dtype}, {width}", lambda e=expected: {"extrapolated": e}
                continue

            def step(width: int = width, dtype: torch.dtype = dtype) -> dict[str, Any]:
                found = decomposed(covariance(width), dtype, DEVICE)
                rates[str(dtype)] = found["per_cubed_width"]
                return found

            yield f"{DEVICE}, {dtype}, {width}", step
    for width in _ON_CPU:
        for n in sorted({1, threads}, reverse=True):
            if n == 1 and width > 2048:
                continue
            yield f"cpu, float64, {n} threads, {width}", lambda n=n, w=width: on_cpu(w, n)


def covariance(width: int) -> Tensor:
    """A covariance whose eigenvalues fall off, as those of activations do, in float64."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    scale = torch.arange(1, width + 1, device=DEVICE, dtype=torch.float64).pow(-0.5)
    rows = torch.randn(2 * width, width, generator=generator, device=DEVICE, dtype=torch.float32)
    mixing = torch.randn(width, width, generator=generator, device=DEVICE, dtype=torch.float32)
    mixed = (rows * scale.float()) @ mixing / width**0.5
    found = (mixed.T @ mixed).double() / (2 * width)
    return (found + found.T) / 2


def decomposed(matrix: Tensor, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Seconds, and errors: of orthogonality, of the matrix put together again."""
    given = matrix.to(device, dtype)
    seconds, (values, vectors) = timed(lambda: torch.linalg.eigh(given))
    Q, M = vectors.to(DEVICE).double(), matrix.to(DEVICE)
    orthogonality = (Q.T @ Q - torch.eye(len(Q), device=DEVICE)).norm()
    again = (Q * values.to(DEVICE).double()) @ Q.T
    return {
        "seconds": round(seconds, 3),
        "per_cubed_width": seconds / len(Q) ** 3,
        "orthogonality": float(orthogonality),
        "residual": float((again - M).norm() / M.norm()),
    }


def on_cpu(width: int, threads: int) -> dict[str, Any]:
    """In float64, as the package decomposes by default."""
    torch.set_num_threads(threads)
    found = decomposed(covariance(width), torch.float64, "cpu")
    rate = found["per_cubed_width"]
    return {**found, "extrapolated": {w: round(rate * w**3, 1) for w in _WIDTHS if w > width}}
