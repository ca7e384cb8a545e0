"""Batches: sequences of like length side by side, padded on the right.

Padding on the right needs no attention mask in a causal model: no real position attends to it, it
is never a target, and so its output gradients are exactly zero. In others the mask says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Of a batch. Another batch costs its modules' weights read again, and that is worth some tokens.
_MOST_PADDING = 1 / 16


@dataclass(frozen=True)
class Batch:
    """Sequences of one forward pass.

    Tokens [B, T] (int64, zero where padded) on the device; lengths and sequence ids [B] stay on the
    host, and so does all arithmetic on places: nothing here waits for the device.

    Attributes:
        tokens_BT: as above.
        lengths_B: tokens of each sequence.
        sequence_ids: theirs.
        masks: which of its tokens the loss of training counted, for each sequence; None for one
            whose documents do not say, and in place of all where nobody asks.
        labels_B: the class of each sequence, where it has one; on the host.
    """

    tokens_BT: Tensor
    lengths_B: NDArray[np.int64]
    sequence_ids: NDArray[np.int64]
    masks: tuple[NDArray[np.bool_] | None, ...] | None = None
    labels_B: NDArray[np.int64] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences, and tokens of each with its padding."""
        n_sequences, n_tokens = self.tokens_BT.shape
        return n_sequences, n_tokens

    @property
    def n_tokens(self) -> int:
        """Real tokens."""
        return int(self.lengths_B.sum())

    @cached_property
    def real_BT(self) -> Tensor:
        """One at each real token, zero at padding."""
        real = np.arange(self.shape[1]) < self.lengths_B[:, None]
        return self.on_device(real.astype(np.int64))

    @cached_property
    def rows_N(self) -> Tensor | None:
        """Places of real tokens in [B T], or None where nothing is padded."""
        if int(self.lengths_B.min()) == self.tokens_BT.shape[1]:
            return None
        width = self.tokens_BT.shape[1]
        starts = range(0, len(self.lengths_B) * width, width)
        real = [np.arange(s, s + n) for s, n in zip(starts, self.lengths_B, strict=True)]
        return self.on_device(np.concatenate(real))

    def real_rows(self, values_BTD: Tensor) -> Tensor:
        """Rows of real tokens [N, D]; of each call of a module where T is several calls long."""
        if self.rows_N is None:
            return values_BTD.flatten(0, 1)
        calls: Tensor = values_BTD.unflatten(1, (-1, self.tokens_BT.shape[1]))
        rows: Tensor = calls.transpose(0, 1).flatten(1, 2)[:, self.rows_N.to(calls.device)]
        return rows.flatten(0, 1)

    def without(self, drop_B: NDArray[np.bool_]) -> Batch | None:
        """The batch without some sequences, as wide as before, or None when none is left."""
        keep = np.flatnonzero(~drop_B)
        if not len(keep):
            return None
        tokens = self.tokens_BT[self.on_device(keep)]
        return replace(
            self,
            tokens_BT=tokens,
            lengths_B=self.lengths_B[keep],
            sequence_ids=self.sequence_ids[keep],
            masks=self.masks and tuple(self.masks[row] for row in keep),
            labels_B=None if self.labels_B is None else self.labels_B[keep],
        )

    def on_device(self, places: NDArray[np.int64]) -> Tensor:
        """Places in the batch, where its tokens are."""
        return torch.from_numpy(places).to(self.tokens_BT.device, non_blocking=True)


def make_batch(
    sequences: Sequence[np.ndarray],
    sequence_ids: Sequence[int],
    device: torch.device,
    masks: Sequence[NDArray[np.bool_] | None] | None = None,
    labels: NDArray[np.int64] | None = None,
) -> Batch:
    """Pad sequences of token ids to the longest and move them to the device.

    ``masks`` and ``labels`` as in :class:`Batch`.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    tokens = np.zeros((len(sequences), int(lengths.max())), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
    ids = np.asarray(sequence_ids, dtype=np.int64)
    there = torch.from_numpy(tokens).to(device)
    return Batch(there, lengths, ids, None if masks is None else tuple(masks), labels)


def unpadded(tokens_BT: Tensor) -> Batch:
    """Sequences of one length as a batch, with ids from 0."""
    n_sequences, n_tokens = tokens_BT.shape
    lengths = np.full(n_sequences, n_tokens, dtype=np.int64)
    return Batch(tokens_BT, lengths, np.arange(n_sequences, dtype=np.int64))


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Deal sequences into batches, longest first, so that little of a batch is padding.

    A pure function of the lengths (ties keep their order), so a split always has the same batches.
    Each batch holds at most ``batch_tokens`` tokens with its padding, or one sequence that is
    longer; at most a sixteenth of ``batch_tokens`` is padding.

    Returns:
        Lists of indices into ``lengths``.
    """
    batches: list[list[int]] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batches:
            # The first of a batch is its longest.
            longest = lengths[batches[-1][0]]
            padding += longest - lengths[index]
            fits = longest * (len(batches[-1]) + 1) <= batch_tokens
            if fits and padding <= batch_tokens * _MOST_PADDING:
                batches[-1].append(index)
                continue
        batches.append([index])
        padding = 0
    return batches
