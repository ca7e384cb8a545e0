"""Captured rows: what one module saw of a batch, row by row, each of a sequence and a token.

A row is an input of the module and an objective's gradient in its output at the same place; the
gradient of the weight is the sum over rows of g a^T, and that of one sequence the sum over its own.

B sequence in batch, T token, R row of a sequence, N row, C call, I input width, O output width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rayinfluence.model.batches import Batch

#: The token of a row that stands for none.
NO_TOKEN = -1


@dataclass(frozen=True)
class Rows:
    """Rows by sequence, as many for each, since all that is made of them is summed by sequence.

    Attributes:
        inputs_BRI: of the module.
        grads_BRO: of an objective in the module's outputs; zero where there is no row.
        n_tokens: of a sequence of the batch, T.
        tokens_BR: which token each row is of, :data:`NO_TOKEN` where there is no row. None where
            row r is of token r mod T, as of a layer that is called with all tokens, once or
            several times.
        n_looked_up: so many rows, the last ones of each sequence, are of what a tied embedding
            looked up, with sides that are swapped. Lambda is of all rows, and bases are not of
            these.
    """

    inputs_BRI: Tensor
    grads_BRO: Tensor
    n_tokens: int
    tokens_BR: Tensor | None = None
    n_looked_up: int = 0

    @classmethod
    def scattered(
        cls, inputs_NI: Tensor, grads_NO: Tensor, places_N: Tensor, shape: tuple[int, int]
    ) -> Rows:
        """Rows in any order, as those are that a router has chosen.

        Args:
            inputs_NI: of the module.
            grads_NO: of its outputs.
            places_N: of each row in [B T]: its sequence, and its token there.
            shape: sequences and tokens of the batch.
        """
        n_sequences, n_tokens = shape
        order_N = places_N.argsort(stable=True)
        sequences_N = places_N[order_N] // n_tokens
        counts_B = torch.bincount(sequences_N, minlength=n_sequences)
        slots_N = _number_within(counts_B)
        most = int(counts_B.max())

        def by_sequence(values_ND: Tensor) -> Tensor:
            padded = values_ND.new_zeros(n_sequences, most, values_ND.shape[1])
            padded[sequences_N, slots_N] = values_ND[order_N]
            return padded

        tokens_BR = places_N.new_full((n_sequences, most), NO_TOKEN)
        tokens_BR[sequences_N, slots_N] = places_N[order_N] % n_tokens
        return cls(by_sequence(inputs_NI), by_sequence(grads_NO), n_tokens, tokens_BR)

    def __len__(self) -> int:
        """Sequences of the batch."""
        return len(self.inputs_BRI)

    def to(self, dtype: torch.dtype) -> Rows:
        """The same in another dtype."""
        inputs, grads = self.inputs_BRI.to(dtype), self.grads_BRO.to(dtype)
        return replace(self, inputs_BRI=inputs, grads_BRO=grads)

    def of_calls(self) -> Rows:
        """Those of the module's own calls."""
        if not self.n_looked_up:
            return self
        own = slice(0, self.inputs_BRI.shape[1] - self.n_looked_up)
        return Rows(self.inputs_BRI[:, own], self.grads_BRO[:, own], self.n_tokens)

    def real_inputs(self, batch: Batch) -> Tensor:
        """The inputs [N, I] at tokens of sequences, without those at padding."""
        if self.tokens_BR is None:
            return batch.real_rows(self.inputs_BRI)
        lengths_B = torch.from_numpy(batch.lengths_B).to(self.tokens_BR.device)
        real_BR = (self.tokens_BR > NO_TOKEN) & (self.tokens_BR < lengths_B[:, None])
        return self.inputs_BRI[real_BR]

    def by_call(self) -> tuple[Tensor, Tensor]:
        """Inputs [B, C, T, I] and gradients [B, C, T, O]; zero where a call has not a token."""
        if self.tokens_BR is None:
            axes = -1, self.n_tokens
            return self.inputs_BRI.unflatten(1, axes), self.grads_BRO.unflatten(1, axes)
        n_sequences = len(self.tokens_BR)
        sequences_N, rows_N = (self.tokens_BR > NO_TOKEN).nonzero(as_tuple=True)
        tokens_N = self.tokens_BR[sequences_N, rows_N]
        # Rows of a sequence stand in the order of their tokens.
        counts = torch.bincount(
            sequences_N * self.n_tokens + tokens_N, minlength=n_sequences * self.n_tokens
        )
        calls_N = _number_within(counts)
        n_calls = max(int(counts.max()), 1)

        def at_tokens(values_BRD: Tensor) -> Tensor:
            shape = n_sequences, n_calls, self.n_tokens, values_BRD.shape[2]
            found = values_BRD.new_zeros(shape)
            found[sequences_N, calls_N, tokens_N] = values_BRD[sequences_N, rows_N]
            return found

        return at_tokens(self.inputs_BRI), at_tokens(self.grads_BRO)

    def of_sequence(self, sequence: int, length: int) -> tuple[Tensor, Tensor]:
        """Inputs [C, T, I] and gradients [C, T, O] of a sequence's own tokens.

        Args:
            sequence: its place in the batch.
            length: its tokens.
        """
        only = slice(sequence, sequence + 1)
        tokens = None if self.tokens_BR is None else self.tokens_BR[only]
        one = Rows(self.inputs_BRI[only], self.grads_BRO[only], self.n_tokens, tokens)
        inputs, grads = one.by_call()
        return inputs[0, :, :length], grads[0, :, :length]


def by_sequence(values: Tensor, shape: tuple[int, int]) -> Tensor | None:
    """What a layer gets or gives for the tokens of a batch as [B, R, .]; None where it cannot be.

    A layer may get all tokens of a batch in one row, sequence after sequence, as OPT's layers and
    shared experts do. Whether they come in that order is for the preflight to see. Or it may get
    them with an axis of one head that all others share, as DeepSeek-V3's does.

    Args:
        values: with rows before the last axis.
        shape: sequences and tokens of the batch.
    """
    n_sequences, n_tokens = shape
    if values.ndim == 3 and len(values) == n_sequences:
        return values
    within = values.shape[1:-1]
    if len(values) == n_sequences and n_tokens in within and within.numel() == n_tokens:
        return values.reshape(n_sequences, n_tokens, values.shape[-1])
    in_one_row = values.ndim == 2 or (values.ndim == 3 and len(values) == 1)
    if in_one_row and values.shape[:-1].numel() == n_sequences * n_tokens:
        return values.reshape(n_sequences, n_tokens, values.shape[-1])
    return None


def at_tokens(values_nD: Tensor, places_n: Tensor, shape: tuple[int, int]) -> Tensor:
    """Rows of some tokens as [B, T, D], zero at the others.

    Args:
        values_nD: the rows.
        places_n: of each in [B T].
        shape: sequences and tokens of the batch.
    """
    n_sequences, n_tokens = shape
    found = values_nD.new_zeros(n_sequences * n_tokens, values_nD.shape[-1])
    found[places_n] = values_nD
    return found.view(n_sequences, n_tokens, -1)


def _number_within(counts: Tensor) -> Tensor:
    """0, 1 ... within each group of as many: [2, 3] gives [0, 1, 0, 1, 2]."""
    starts = counts.cumsum(0) - counts
    everything = torch.arange(int(counts.sum()), device=counts.device)
    return everything - starts.repeat_interleave(counts)
