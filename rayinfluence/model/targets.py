"""Targets: which tokens of a batch count, what is predicted there, and how much each counts.

An objective is a weighted sum of log p(label) over targets, and so a sum over sequences. That of
training decides A, S, Lambda and the gradients of sequences; a query has its own.

B sequence in batch, T token, N target, over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.model.batches import Batch
from rayinfluence.model.pairs import begins_of


@dataclass(frozen=True)
class Targets:
    """The targets of a batch, sequence after sequence.

    Attributes:
        places_N: in [B T], whose logits predict; sequences, of a model that says one thing of each.
        labels_N: the batch's own tokens that are to be predicted there, or classes.
        sequences_N: the sequence of each, in the batch.
        counts_B: how many each sequence has; on the host.
        weights_N: of each log-probability in the objective; None where all are one.
        given_BT: tokens that the model is given in the place of the batch's; None for these.
    """

    places_N: Tensor
    labels_N: Tensor
    sequences_N: Tensor
    counts_B: NDArray[np.int64]
    weights_N: Tensor | None = None
    given_BT: Tensor | None = None

    def given(self, batch: Batch) -> Batch:
        """The batch as the model is given it."""
        return batch if self.given_BT is None else replace(batch, tokens_BT=self.given_BT)

    def by_sequence(self, values_N: Tensor) -> Tensor:
        """The objective of each sequence [B], from log-probabilities at the targets."""
        if self.weights_N is not None:
            values_N = values_N * self.weights_N.to(values_N.dtype)
        return values_N.new_zeros(len(self.counts_B)).index_add(0, self.sequences_N, values_N)


class Objective(Protocol):
    """What counts of a batch: a function of its tokens and lengths, sequence by sequence."""

    def targets(self, batch: Batch) -> Targets:
        """The targets of a batch; none at padding."""


@dataclass(frozen=True)
class NextTokens:
    """Every token from ``first`` on is predicted from those before it, and counts alike.

    From 1 on this is how causal language models are trained; from where a completion begins it is
    log p(completion | prompt).

    Attributes:
        first: the token.
        masked: only what the batch's masks have counts; all of a sequence that has none.
    """

    first: int = 1
    masked: bool = False

    def targets(self, batch: Batch) -> Targets:
        """The places before the tokens."""
        found = []
        masks = (batch.masks if self.masked else None) or [None] * len(batch.lengths_B)
        for length, mask in zip(batch.lengths_B, masks, strict=True):
            tokens = np.arange(self.first, length)
            if mask is not None:
                tokens = tokens[mask[self.first : length]]
            found.append(tokens - 1)
        return targets_at(batch, found, ahead=1)


def targets_at(batch: Batch, found: Sequence[NDArray[np.int64]], ahead: int) -> Targets:
    """Targets at places of each sequence.

    Args:
        batch: the sequences.
        found: the places, sequence by sequence.
        ahead: how far after a place the token stands that is predicted there.
    """
    counts_B = np.array([len(places) for places in found], dtype=np.int64)
    starts = np.arange(len(found)) * batch.shape[1]
    places = [start + places for start, places in zip(starts, found, strict=True)]
    places_N = batch.on_device(np.concatenate(places))
    sequences_N = batch.on_device(np.repeat(np.arange(len(counts_B)), counts_B))
    return Targets(places_N, batch.tokens_BT.flatten()[places_N + ahead], sequences_N, counts_B)


@dataclass(frozen=True)
class TargetTokens:
    """Tokens of the target, from where the loss begins, each given the source and those before."""

    def targets(self, batch: Batch) -> Targets:
        """The places before the tokens."""
        pairs = zip(begins_of(batch), batch.lengths_B, strict=True)
        return targets_at(batch, [np.arange(begin, end) - 1 for begin, end in pairs], ahead=1)


@dataclass(frozen=True)
class Mean:
    """The mean over a sequence's targets: each sequence counts alike, however many it has."""

    of: Objective

    def targets(self, batch: Batch) -> Targets:
        """Those of another objective, weighted by one over their number."""
        found = self.of.targets(batch)
        weights_B = torch.from_numpy(1 / np.maximum(found.counts_B, 1))
        weights_N = weights_B.to(found.places_N.device)[found.sequences_N]
        return replace(found, weights_N=weights_N)


@dataclass(frozen=True)
class RootWeights:
    """An objective whose squared gradients are the curvature of another one.

    At labels that the model draws, gradients at different targets are uncorrelated, so that with
    weights w the expected square of the gradient has w^2 of each target's Fisher matrix. The
    Gauss-Newton matrix of a sum with weights has w of each, and so have squares of gradients with
    weights w^(1/2).
    """

    of: Objective

    def targets(self, batch: Batch) -> Targets:
        """Those of the other objective, with roots of their weights; of a plain sum the same."""
        found = self.of.targets(batch)
        return (
            found if found.weights_N is None else replace(found, weights_N=found.weights_N.sqrt())
        )
