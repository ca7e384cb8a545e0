"""Calibration of representer points: a forward pass, a value of the fit, and scores.

N target, D feature, V class, K asked target, Q query.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from rayinfluence.curvature.products import accumulation_dtype
from rayinfluence.dataflow.compute.refit_foreseen import refit_operations
from rayinfluence.dataflow.compute.replica import Replica
from rayinfluence.dataflow.compute.representer_queries import rescore_representers
from rayinfluence.dataflow.compute.representing import points_of
from rayinfluence.influence.representers import LastLayerFit, Points, RepresenterBank

#: Targets that a value is measured on, at most.
_TARGETS = 512


@dataclass(frozen=True)
class LayerRates:
    """What one worker measured of representer points.

    Attributes:
        features: seconds per token of what the last layer sees.
        refit: seconds per operation of a value of the fit, as they are counted.
        rescore: seconds per token of survivors.
        targets: per token.
    """

    features: float
    refit: float
    rescore: float
    targets: float


def random_representers(replica: Replica, n_queries: int, n_asked: int) -> RepresenterBank:
    """Queries of the right shapes, with so many targets together, their numbers random."""
    weight_VD = replica.last_layer.weight_VD
    n_classes, width = weight_VD.shape
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "features": torch.randn(n_asked, width, generator=generator),
        "labels": torch.randint(0, n_classes, (n_asked,), generator=generator),
        "coefficients": torch.ones(n_asked),
        "queries": torch.arange(n_asked) % n_queries,
    }
    there = {name: tensor.to(weight_VD.device) for name, tensor in tensors.items()}
    return RepresenterBank([str(i) for i in range(n_queries)], there, weight_VD, 1.0, 1)


def layer_rates(replica: Replica, bank: RepresenterBank, rows: pa.Table) -> LayerRates:
    """Measure on some rows.

    Args:
        replica: the model.
        bank: of as many queries as there will be.
        rows: that the model takes.
    """
    n_tokens = sum(rows["n_tokens"].to_pylist())
    n_rows = len(rows)
    found: list[Points] = []

    def seen() -> None:
        found[:] = [points for _, _, points in points_of(replica, rows, {}, lambda _: None)]

    features = timed(seen)
    # Each row once, with all of its tokens, for a query.
    rows_P = np.arange(n_rows, dtype=np.int64)
    told = rows, rows_P, np.zeros(n_rows, np.int64), np.ones(n_rows, np.bool_)
    again = timed(lambda: rescore_representers(replica, bank, *told))
    return LayerRates(
        features / n_tokens,
        _refit_rate(replica, found),
        again / n_tokens,
        sum(map(len, found)) / n_tokens,
    )


def _refit_rate(replica: Replica, found: list[Points]) -> float:
    """Of a value and its gradient at some targets; 0 where there are none."""
    weight_VD = replica.last_layer.weight_VD
    whole = next((some for some in found if len(some)), None)
    if whole is None:
        return 0.0
    some = whole.at(torch.arange(len(whole), device=whole.labels_N.device) < _TARGETS)
    fit = LastLayerFit([some], weight_VD, None, 1.0)
    dtype, weight_VD = accumulation_dtype(some.features_ND.dtype), weight_VD.double()
    fit.value(weight_VD, dtype)  # kernels are found once
    return timed(lambda: fit.value(weight_VD, dtype)) / refit_operations(
        len(some), *weight_VD.shape
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes, on a CUDA device, too."""
    started = time.monotonic()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - started
