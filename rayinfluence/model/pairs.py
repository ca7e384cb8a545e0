"""Sequences of a source and a target: what encoder and decoder get of them, and whose rows are.

Both stand in one sequence, the target after its source, so that texts, tokens and scores by token
are those of all sequences. The decoder is given the target shifted by one; its row that predicts a
token is of the token before that, and its first row of the source's last token.

B sequence in batch, T token, S row of the encoder, D row of the decoder, X anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.model.batches import Batch
from rayinfluence.model.rows import NO_TOKEN


def begins_of(batch: Batch) -> NDArray[np.int64]:
    """Where the target of each sequence begins [B]: where the loss does.

    Sequences that are made up say nothing of it, and are halved.
    """
    if batch.masks is None:
        return (batch.lengths_B + 1) // 2
    return np.array([0 if mask is None else mask.argmax() for mask in batch.masks], dtype=np.int64)


@dataclass(frozen=True)
class Pairs:
    """The two sides of a batch.

    Rows of the encoder and of the decoder are never as many, by one of padding where they would
    be: so the shape of what a layer gets says which side it is on.
    """

    batch: Batch

    @cached_property
    def source_BS(self) -> NDArray[np.int64]:
        """Which token each row of the encoder is of."""
        begins_B = begins_of(self.batch)
        width = int(begins_B.max())
        width += width == self.target_BD.shape[1]
        return _counted(np.zeros_like(begins_B), begins_B, width)

    @cached_property
    def target_BD(self) -> NDArray[np.int64]:
        """Which token each row of the decoder is of."""
        begins_B = begins_of(self.batch)
        lengths_B = self.batch.lengths_B - begins_B
        return _counted(begins_B - 1, lengths_B, max(1, int(lengths_B.max())))

    @property
    def sides(self) -> dict[int, Tensor]:
        """The token of each row, by how many rows a sequence has on a side."""
        return {
            side.shape[1]: self.batch.on_device(side) for side in (self.source_BS, self.target_BD)
        }

    def arguments(self, start: int) -> dict[str, Tensor]:
        """What a model is called with; ``start`` is what its decoder begins with."""
        source_BS, target_BD = map(self.batch.on_device, (self.source_BS, self.target_BD))
        given_BD = self._tokens(target_BD)
        given_BD[:, 0] = start
        return {
            "input_ids": self._tokens(source_BS),
            "attention_mask": (source_BS > NO_TOKEN).long(),
            "decoder_input_ids": given_BD,
        }

    def at_tokens(self, rows_BDX: Tensor) -> Tensor:
        """What a decoder gives [B, D, X] at the tokens that its rows are of [B, T, X]."""
        found_BTX = rows_BDX.new_zeros(*self.batch.shape, rows_BDX.shape[-1])
        rows_N, columns_N = map(self.batch.on_device, np.nonzero(self.target_BD > NO_TOKEN))
        tokens_N = self.batch.on_device(self.target_BD[self.target_BD > NO_TOKEN])
        return found_BTX.index_put((rows_N, tokens_N), rows_BDX[rows_N, columns_N])

    def _tokens(self, places_BX: Tensor) -> Tensor:
        tokens_BX = self.batch.tokens_BT.gather(1, places_BX.clamp(min=0))
        return tokens_BX.masked_fill(places_BX == NO_TOKEN, 0)


def _counted(
    starts_B: NDArray[np.int64], counts_B: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """As many numbers as are counted, from a start, and :data:`NO_TOKEN` after them."""
    steps = np.arange(width)
    found: NDArray[np.int64] = np.where(
        steps < counts_B[:, None], starts_B[:, None] + steps, NO_TOKEN
    )
    return found


def of_sides(
    inputs: list[Tensor], grads: list[Tensor], sides: Mapping[int, Tensor], n_tokens: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows of all calls [N, .], and of each its place in [B T]; None where a call is of no side.

    Args:
        inputs: of each call.
        grads: likewise.
        sides: the token of each row, by how many rows a sequence has.
        n_tokens: of a sequence, T.
    """
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for of_inputs, of_grads in zip(inputs, grads, strict=True):
        tokens_BX = side_of(of_inputs, sides)
        if tokens_BX is None or of_grads.shape[:-1] != of_inputs.shape[:-1]:
            return None
        tokens_BX = tokens_BX.to(of_inputs.device)  # a block may be on another than the tokens
        starts_B1 = torch.arange(len(tokens_BX), device=tokens_BX.device)[:, None] * n_tokens
        real_N = (tokens_BX > NO_TOKEN).flatten()
        places_N = (starts_B1 + tokens_BX).flatten()[real_N]
        for one, values in zip(
            found,
            (of_inputs.flatten(0, -2)[real_N], of_grads.flatten(0, -2)[real_N], places_N),
            strict=True,
        ):
            one.append(values)
    first, second, third = map(torch.cat, found)
    return first, second, third


def side_of(rows: Tensor, sides: Mapping[int, Tensor]) -> Tensor | None:
    """The tokens [B, X] of a call's rows, by their number."""
    for width, tokens_BX in sides.items():
        shape = rows.shape[:-1]
        if shape == tokens_BX.shape or shape == (len(tokens_BX) * width,):
            return tokens_BX
    return None
