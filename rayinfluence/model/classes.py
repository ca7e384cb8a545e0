"""Objectives of classifiers: the class of a whole text, of which there is one logit each.

B sequence in batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayinfluence.model.batches import Batch
from rayinfluence.model.targets import Targets


@dataclass(frozen=True)
class ClassOf:
    """Log p(class | text).

    Attributes:
        label: the class that is asked for; None is that of each sequence.
    """

    label: int | None = None

    def targets(self, batch: Batch) -> Targets:
        """One of each sequence, at its own logits."""
        if self.label is None:
            assert batch.labels_B is not None
            labels_B = batch.labels_B
        else:
            labels_B = np.full(len(batch.lengths_B), self.label, dtype=np.int64)
        sequences_B = batch.on_device(np.arange(len(labels_B)))
        ones_B = np.ones(len(labels_B), dtype=np.int64)
        return Targets(sequences_B, batch.on_device(labels_B), sequences_B, ones_B)
