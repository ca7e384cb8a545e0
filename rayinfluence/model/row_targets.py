"""Objectives of rows of features: a number or a class, predicted from a row as a whole.

B sequence in batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rayinfluence.model.batches import Batch
from rayinfluence.model.targets import Targets


@dataclass(frozen=True)
class TargetOfRow:
    """Log p(target | features); of a number that is the density of a normal distribution.

    Attributes:
        is_class: whether the target is one.
        label: the class that is asked for; None is each row's own target.
    """

    is_class: bool
    label: int | None = None

    def targets(self, batch: Batch) -> Targets:
        """One of each row, at its own prediction: a class, or a number in float64."""
        numbers_B = batch.tokens_BT[:, -1].to(torch.int32).view(torch.float32).double()
        if self.label is not None:
            numbers_B = torch.full_like(numbers_B, self.label)
        sequences_B = batch.on_device(np.arange(len(numbers_B)))
        ones_B = np.ones(len(numbers_B), dtype=np.int64)
        labels_B = numbers_B.long() if self.is_class else numbers_B
        return Targets(sequences_B, labels_B, sequences_B, ones_B)
