"""Counts what a farm trains on."""

from __future__ import annotations

from typing import Any

import pytest

from rayinfluence.evaluation.retraining import Retraining


def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of subsets that are trained on from now on."""
    trained: list[str] = []
    original = Retraining._retrain

    def counted(self: Any, subset: Any, advance: Any) -> float:
        trained.append(subset.digest)
        return original(self, subset, advance)

    monkeypatch.setattr(Retraining, "_retrain", counted)
    return trained
