"""Representer points as a plan counts them: operations, bytes, and how often a fit looks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rayinfluence.dataflow.compute.refit_foreseen import (
    HELD_BYTES,
    ForeseenRefit,
    refit_operations,
)
from rayinfluence.influence import representers
from rayinfluence.influence.representers import LastLayerFit, Points, remembered

N, V, D = 60, 11, 8
FORESEEN = ForeseenRefit(N, V, D, steps=100, target_bytes=4 * D, n_asked=3, device="cpu")


def _fit() -> LastLayerFit:
    generator = torch.Generator().manual_seed(0)
    features_ND = torch.randn(N, D, generator=generator)
    labels_N = torch.randint(0, V, (N,), generator=generator)
    points = [Points(features_ND[:40], labels_N[:40]), Points(features_ND[40:], labels_N[40:])]
    return LastLayerFit(points, torch.randn(V, D, generator=generator), None, 1e-6)


def test_operations_of_a_value_are_those_that_are_counted() -> None:
    fit = _fit()
    with FlopCounterMode(display=False) as counter:
        fit.value(torch.zeros(V, D, dtype=torch.float64), torch.float32)
    assert counter.get_total_flops() == refit_operations(N, V, D) == 4 * N * V * D


@pytest.mark.parametrize("steps", [50, 100])
def test_a_fit_looks_about_as_often_as_is_counted(steps: int) -> None:
    """Of one that takes all of its steps: nothing holds the weights of classes that are apart."""
    generator = torch.Generator().manual_seed(0)
    features_ND = torch.randn(N, 24, generator=generator, dtype=torch.float64)
    points = [Points(features_ND, torch.randint(0, V, (N,), generator=generator))]
    fit = LastLayerFit(points, torch.zeros(V, 24, dtype=torch.float64), 1e-12, 1.0)
    with FlopCounterMode(display=False) as counter:
        progress = fit.run(fit.begin(), steps, 1e-12)
        fit.end(progress, torch.float64)
    assert progress.steps == steps
    # Weights are taken to the basis and back for each value, which is beside its operations.
    a_value = refit_operations(N, V, 24) + 4 * V * 24 * 24
    assert counter.get_total_flops() / a_value == pytest.approx(
        replace(FORESEEN, steps=steps).values, rel=0.3
    )


def test_rounds_are_whole() -> None:
    a_round = 1 + 1.25 * 50
    for steps, rounds in ((1, 1), (50, 1), (51, 2)):
        assert replace(FORESEEN, steps=steps).values == 3 + rounds * a_round


def test_bytes() -> None:
    assert FORESEEN.features_bytes == N * (4 * D + 8)
    assert FORESEEN.layer_bytes == 2 * 8 * V * D
    assert FORESEEN.scan_bytes == 8 * D * (V + 3)
    wide = replace(FORESEEN, n_targets=10**9, n_classes=50_000, width=4096, target_bytes=4 * 4096)
    beside = wide.fit_bytes - HELD_BYTES["cpu"]
    # Of ten or fewer steps curvature is remembered, as of more it would not fit.
    assert remembered(50_000, 4096) == 5
    assert beside == (2 * 5 + 24) * 8 * 50_000 * 4096


@pytest.mark.parametrize(("room", "expected"), [(1 << 40, 50), (2 * 8 * V * D * 7, 7), (0, 5)])
def test_as_many_steps_are_remembered_as_fit(
    room: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representers, "_MEMORY", room)
    assert remembered(V, D) == expected
