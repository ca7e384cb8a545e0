"""Part c: each pass of a Llama of a billion weights beside a plain forward and backward pass."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from contenders import RANK, Plain
from flops import counted
from gpu_device import DEVICE, TOY, Clock, Step, peak_gib, synchronize, timed
from gpu_shapes import BATCH, BILLION, device_peak
from harness import table
from shapes import MLP_PATTERNS
from torch.profiler import ProfilerActivity, profile

from rayinfluence.curvature import products
from rayinfluence.dataflow.compute.folding import (
    LaneRows,
    fitting_labels,
    fold_covariance,
    fold_moments,
)
from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.jobs.calibrate import random_bank, trivial_bases
from rayinfluence.influence.bank import QueryBank
from rayinfluence.influence.tiles import TILE_NUMBERS
from rayinfluence.model.modules import track

_REPEATS = 1 if TOY else 3


def steps(clock: Clock) -> Iterator[tuple[str, Step]]:
    """Passes, the profile, and what might be set otherwise."""
    passes = Passes()
    for name in ("covariance", "lambda", "scan-10", "scan-256"):
        yield name, lambda name=name: passes.beside_plain(name)
        yield f"profile of {name}", lambda name=name: profiled(lambda: passes.run(name, share=8))
    yield "triangles of Gram matrices", triangles
    if DEVICE == "cuda":
        yield "sums in a product", sums_in_a_product
    for name in ("scan-10", "scan-256"):
        yield f"tiles of {name}", lambda name=name: tiles(lambda: passes.run(name, share=4))


class Passes:
    """The model, frozen for ours and with weight gradients for the plain pass."""

    def __init__(self) -> None:
        self.shape = BILLION
        self.plain: Plain | None = None
        self.replica: Replica | None = None
        self.banks: dict[str, QueryBank] = {}

    def beside_plain(self, name: str) -> dict[str, Any]:
        """Ratios of neighbours, the best rate, and the share of the peak."""
        if self.plain is None:
            self.plain = Plain(self.shape)
            self.plain.run("plain")
        self.run(name, warm=True)
        peak_gib()
        ratios, seconds = [], []
        for _ in range(_REPEATS):
            plain, _ = timed(lambda: self.plain.run("plain"))
            ours, _ = timed(lambda: self.run(name))
            ratios.append(ours / plain)
            seconds.append(ours)
        n_tokens = self.shape.n_sequences * self.shape.n_tokens
        median = statistics.median(seconds)
        found = {
            "ratio": [round(r, 3) for r in sorted(ratios)],
            "seconds": round(median, 3),
            "plain_seconds": round(plain, 3),
            "tokens_per_s": round(n_tokens / median),
            "peak_gib": peak_gib(),
        }
        # Over an eighth: what is counted is kept alive meanwhile.
        rate = device_peak(self.shape.dtype)
        found["of_peak"] = round(8 * counted(lambda: self.run(name, share=8)) / median / rate, 3)
        found["peak_tflops"] = round(rate / 1e12, 1)
        return found

    def run(self, name: str, warm: bool = False, share: int = 1) -> None:
        """One pass, over all sequences or a share of them."""
        if self.replica is None:
            model = self.shape.build()
            dtype = str(self.shape.dtype).removeprefix("torch.")
            numerics = Numerics(dtype, DEVICE, BATCH, 2**21, "sdpa", 0)
            self.replica = Replica(model, track(model, MLP_PATTERNS), numerics)
            self.rows = table(self.shape.sequences())
            self.bases = trivial_bases(self.replica, 1)
        n = len(self.rows) // (8 if warm else share)
        rows = self.rows.slice(0, max(1, n))
        lane = LaneRows(lambda start: [rows], fitting_labels("sampled", 0))
        if name == "covariance":
            fold_covariance(self.replica, lane, 1)
        elif name == "lambda":
            fold_moments(self.replica, lane, self.bases)
        else:
            if name not in self.banks:
                self.banks = {name: random_bank(self.replica, int(name.partition("-")[2]), RANK)}
            score_split(self.replica, [self.banks[name]], rows)


def profiled(run: Callable[[], None]) -> dict[str, Any]:
    """The kernels that take most of the device's time, and how much of the time it is idle."""
    activity = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (DEVICE == "cuda")
    seconds, _ = timed(run)
    with profile(activities=activity) as found:
        run()
        synchronize()
    times: dict[str, float] = {}
    counts: dict[str, int] = {}
    for event in found.events():
        on_device = str(event.device_type).endswith("CUDA")
        if on_device or TOY:
            took = (event.device_time if on_device else event.self_cpu_time_total) / 1e6
            times[event.name] = times.get(event.name, 0.0) + took
            counts[event.name] = counts.get(event.name, 0) + 1
    busy = sum(times.values())
    top = sorted(times, key=lambda name: -times[name])[:14]
    return {
        "seconds": round(seconds, 4),
        "busy_seconds": round(busy, 4),
        "idle_share": round(max(0.0, 1 - busy / seconds), 3),
        "kernels": sum(counts.values()),
        "top": [[name[:90], counts[name], round(times[name] / busy, 3)] for name in top],
    }


def tiles(run: Callable[[], None]) -> dict[str, Any]:
    """Seconds of a scan by the most numbers in a temporary."""
    kept = TILE_NUMBERS[DEVICE]
    found = {}
    for bits in (10, 12) if TOY else (23, 25, 27, 29):
        TILE_NUMBERS[DEVICE] = 1 << bits
        run()
        found[f"2^{bits}"] = round(min(timed(run)[0] for _ in range(2)), 4)
    TILE_NUMBERS[DEVICE] = kept
    return found


def triangles() -> dict[str, Any]:
    """A Gram matrix's sum by the width under which it is one product."""
    found: dict[str, Any] = {}
    kept = products._TRIANGLE[DEVICE]
    widths = (64,) if TOY else (2048, 8192)
    for dtype in (torch.bfloat16, torch.float32):
        for width in widths:
            rows = torch.randn(BATCH, width, device=DEVICE).to(dtype)
            total = torch.zeros(width, width, device=DEVICE)
            by_triangle = {}
            for triangle in (128, 512, 1024, 2048, 4096, 10**6):
                products._TRIANGLE[DEVICE] = triangle

                def add(rows: torch.Tensor = rows, total: torch.Tensor = total) -> None:
                    products.add_gram(total, rows)

                add()
                by_triangle[triangle] = round(1000 * min(timed(add)[0] for _ in range(4)), 3)
            found[f"{dtype}, {width}, ms"] = by_triangle
    products._TRIANGLE[DEVICE] = kept
    return found


def sums_in_a_product() -> dict[str, Any]:
    """Whether a product of bfloat16 that adds to a block of a float32 sum itself is sooner."""
    rows = torch.randn(BATCH, 4096, device=DEVICE).bfloat16()
    total = torch.zeros(8192, 8192, device=DEVICE)[4096:, :4096]
    adding: dict[str, Callable[[], object]] = {
        "product, then sum": lambda: total.add_(products.product(rows.T, rows)),
        "addmm": lambda: torch.addmm(total, rows.T, rows, out_dtype=total.dtype, out=total),
    }
    found: dict[str, Any] = {}
    for name, add in adding.items():
        total.zero_()
        add()
        found[name] = {"sum": float(total.double().sum())}
        found[name]["ms"] = round(1000 * min(timed(add)[0] for _ in range(6)), 3)
    return found
