"""Figures of methods that nobody measured, for pages of them."""

from __future__ import annotations

from rayinfluence.storage.results.evaluated import (
    Bin,
    Calibration,
    Evaluated,
    Groups,
    Interval,
    MethodFigures,
    Protocol,
)

LDS = Interval(0.48, 0.44, 0.52, 20)
BINS = (
    Bin(0.001, 0.01, 30, Interval(0.2, -0.5, 0.9, 10), False),
    Bin(0.01, 0.1, 30, Interval(0.78, 0.7, 0.9, 10), True),
    Bin(0.1, 0.5, 30, Interval(0.8, 0.75, 0.85, 10), True),
)
EKFAC = MethodFigures(
    "ekfac",
    "ekfac",
    ("factors", "gradients"),
    seconds=3.25,
    peak_bytes=500 * 2**20,
    lds={"half": LDS},
    removal=Interval(0.07, 0.05, 0.09, 10),
    removal_over={"bm25": Interval(0.01, -0.01, 0.02, 10)},
    recall=Interval(0.5, None, None, 1),
    reciprocal_rank=Interval(0.75, 0.6, 0.9, 10),
    groups=Interval(0.9, 0.8, 0.95, 20),
    tail_patch=Interval(0.001, 0.0005, 0.002, 20),
    calibration=Calibration(
        Interval(0.79, 0.7, 0.85, 10), 0.6, 0.7, 90, BINS, ((0.1, 0.08), (-0.2, -0.16))
    ),
    by_query={"lds half": [0.4, float("nan")]},
)
RANDOM = MethodFigures("random", "random", (), lds={"half": Interval(0.01, -0.04, 0.05, 20)})
FOUND = Evaluated(
    "a" * 32,
    "b" * 32,
    1000,
    ("q0", "q1"),
    (0, 1),
    123,
    ("A note.",),
    (Protocol("half", 40, 2, Interval(0.8, 0.7, 0.85, 20)),),
    Groups("source", ("web", "books"), 2, 0.5),
    (10, 5),
    10,
    (EKFAC, RANDOM),
)
