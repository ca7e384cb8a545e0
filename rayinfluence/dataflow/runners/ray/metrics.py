"""The metrics that actors export through Ray, for Prometheus.

Ray exports them with the prefix ``ray_`` and labels of its own (SessionName, WorkerId,
NodeAddress). Tags are few: a run has one value of each, or a handful.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

#: A stage: scan, covariance, moments, queries, held-out or rescore.
TAGS = ("run", "stage")


@dataclass(frozen=True)
class Metric:
    """One counter: what it counts and its tags beside run and stage."""

    description: str
    tags: tuple[str, ...] = ()


#: All of them are counters.
METRICS: Mapping[str, Metric] = {
    "rayinfluence_splits": Metric("Splits whose partials were committed."),
    "rayinfluence_sequences": Metric("Sequences that were scored or folded."),
    "rayinfluence_tokens": Metric("Tokens that workers are through with, done again or not."),
    "rayinfluence_seconds": Metric(
        "Seconds that actors spent, by phase: read, score or write.", ("phase",)
    ),
    "rayinfluence_retries": Metric("Operations on storage that were tried again."),
    "rayinfluence_quarantined": Metric(
        "What was set aside, by kind: sequence or split.", ("kind",)
    ),
}


class Meter:
    """Counts inside one actor.

    Args:
        run: the run's name.
        stage: the stage that the actor works on.
    """

    def __init__(self, run: str, stage: str) -> None:
        self._tags = {"run": run, "stage": stage}

    def add(self, name: str, value: float, **tags: str) -> None:
        """Add to a counter, one of METRICS."""
        if value > 0:
            _counter(name).inc(value, {**self._tags, **tags})


@cache
def _counter(name: str) -> Any:
    from ray.util.metrics import Counter

    metric = METRICS[name]
    return Counter(name, metric.description, (*TAGS, *metric.tags))
