"""Batches: sequences of like length side by side, padded on the right.

Padding on the right needs no attention mask in a causal model: no real position attends to it, it
is never a target, and so its output gradients are exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass.

    Tokens [B, T] (int64, zero where padded), lengths [B], their ids [B].
    """

    tokens_BT: Tensor
    lengths_B: Tensor
    sequence_ids: np.ndarray[tuple[int], np.dtype[np.int64]]

    @property
    def mask_BT(self) -> Tensor:
        """True at real tokens."""
        positions = torch.arange(self.tokens_BT.shape[1], device=self.tokens_BT.device)
        return positions[None, :] < self.lengths_B[:, None]

    @property
    def targets_BT(self) -> Tensor:
        """True at tokens that the model is asked to predict.

        Every real one but each sequence's first.
        """
        targets = self.mask_BT.clone()
        targets[:, 0] = False
        return targets

    def without(self, drop_B: Tensor) -> Batch | None:
        """The batch without some sequences, as wide as before, or None when none is left."""
        keep = ~drop_B
        if not bool(keep.any()):
            return None
        return Batch(
            self.tokens_BT[keep], self.lengths_B[keep], self.sequence_ids[keep.cpu().numpy()]
        )


def make_batch(
    sequences: Sequence[np.ndarray], sequence_ids: Sequence[int], device: torch.device
) -> Batch:
    """Pad sequences of token ids to the longest and move them to the device."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    tokens = np.zeros((len(sequences), int(lengths.max())), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
    return Batch(
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(lengths).to(device),
        np.asarray(sequence_ids, dtype=np.int64),
    )


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Deal sequences into batches, longest first, so that little of a batch is padding.

    A pure function of the lengths (ties keep their order), so a split always has the same batches.
    Each batch holds at most ``batch_tokens`` tokens with its padding, or one sequence that is
    longer.

    Returns:
        Lists of indices into ``lengths``.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        # The first of a batch is its longest.
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
