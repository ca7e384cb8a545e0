"""Objectives of masked language models: which tokens are masked, and predicted from all others.

B sequence in batch, T token, N target, over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rayinfluence.model.batches import Batch
from rayinfluence.model.targets import Targets, targets_at

#: Where in its Philox stream a sequence's masks begin; labels are drawn from the beginning.
_OF_MASKS = 1 << 128


@dataclass(frozen=True)
class Masking:
    """How a masked language model was trained.

    Attributes:
        rate: the share of a sequence's tokens that are masked, one of them at the least.
        token: that is put in their place.
        never: tokens that are not masked, as the tokenizer's own are.
    """

    rate: float
    token: int
    never: tuple[int, ...]


def masked_places(
    tokens: NDArray[np.integer], masking: Masking, seed: int, sequence_id: int
) -> NDArray[np.int64]:
    """Which tokens of a sequence are masked."""
    places = np.flatnonzero(~np.isin(tokens, masking.never))
    wanted = max(1, round(masking.rate * len(places)))
    key = np.random.Philox(key=[seed, sequence_id], counter=_OF_MASKS)
    order = np.random.Generator(key).random(len(places)).argsort(kind="stable")
    return np.sort(places[order[:wanted]])


@dataclass(frozen=True)
class MaskedTokens:
    """Tokens that are masked are predicted at their own places, from all others.

    Devlin et al. 2019, section 3.1, with the mask at every place. Which they are depends on (seed,
    sequence id) and the sequence's tokens alone: the smallest numbers of a Philox stream that is
    keyed by the first two, far from where labels are drawn of it.

    Attributes:
        masking: how many, and with what.
        seed: of the run.
        told: the batch's masks say which they are.
    """

    masking: Masking
    seed: int
    told: bool = False

    def targets(self, batch: Batch) -> Targets:
        """The places that are masked."""
        masks = (batch.masks if self.told else None) or [None] * len(batch.lengths_B)
        found = [
            masked_places(tokens, self.masking, self.seed, int(sequence_id))
            if mask is None
            else np.flatnonzero(mask[: len(tokens)])
            for tokens, sequence_id, mask in zip(
                _own_tokens(batch), batch.sequence_ids, masks, strict=True
            )
        ]
        return _covered(batch, found, self.masking.token)


@dataclass(frozen=True)
class MaskedSpan:
    """Tokens from ``first`` to before ``end`` are masked, all at once, and predicted from others.

    Attributes:
        first: as above.
        end: as above.
        token: that is put in their place.
    """

    first: int
    end: int
    token: int

    def targets(self, batch: Batch) -> Targets:
        """These places."""
        ends = np.minimum(batch.lengths_B, self.end)
        return _covered(batch, [np.arange(self.first, end) for end in ends], self.token)


@dataclass(frozen=True)
class OwnTokens:
    """Every token is predicted at its own place, and seen there: for checks, of no training."""

    def targets(self, batch: Batch) -> Targets:
        """All places."""
        return targets_at(batch, [np.arange(length) for length in batch.lengths_B], ahead=0)


def _covered(batch: Batch, found: Sequence[NDArray[np.int64]], token: int) -> Targets:
    """Targets at places of each sequence where the model is given another token."""
    targets = targets_at(batch, found, ahead=0)
    given = batch.tokens_BT.flatten().index_fill(0, targets.places_N, token)
    return replace(targets, given_BT=given.view(batch.shape))


def _own_tokens(batch: Batch) -> list[NDArray[np.int64]]:
    """The tokens of each sequence, on the host."""
    rows = batch.tokens_BT.cpu().numpy()
    return [row[:length] for row, length in zip(rows, batch.lengths_B, strict=True)]
