"""The demo at its smallest."""

from __future__ import annotations

from rayinfluence.demo.run import DemoSize
from rayinfluence.evaluation.training import TrainingSettings

SMALL = DemoSize(
    subjects=10,
    plain_documents=40,
    queried_facts=8,
    training=TrainingSettings(epochs=14, batch=4, learning_rate=3e-3, threads=1),
)
