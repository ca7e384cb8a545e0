"""Scores of sequences against queries: two exact contractions, and which is cheaper.

B sequence in batch, n sequence in window, T token, N token in window, Q query, R rank, I input
width, O output width. The score of a module is <P_q, D_z> = sum_t g_t^T P_q a_t with P_q = U_q
V_q^T:

* factored: (g_t U_q) and (a_t V_q) meet in rank R, token by token;
* materialised: D_z is made once and serves all queries, whose P_q are rebuilt a tile at a time.

A window is several batches contracted together, so that rebuilding P_q is shared by their tokens
and the product with D_z is not a thin one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rayinfluence.curvature.products import accumulation_dtype, product
from rayinfluence.influence.bank import Itself
from rayinfluence.influence.squares import Squares
from rayinfluence.influence.tiles import FLOPS_PER_BYTE, TILE_NUMBERS, Part, slices


class Queries(Protocol):
    """All queries of a bank for one module."""

    @property
    def n_queries(self) -> int:
        """Q."""

    @property
    def rank(self) -> int | None:
        """R, or None where P_q is dense."""

    def token_scores(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """g_t^T P_q a_t [B, T, Q]."""

    def tile(self, queries: slice, outputs: slice, out: Tensor) -> Tensor:
        """Some rows of some P_q, without the bias column, [q, o, I]; ``out`` may hold them."""

    def bias_scores(self, sums_BO: Tensor) -> Tensor | float:
        """What the bias adds to the scores [B, Q], from gradients summed over tokens."""


@dataclass(frozen=True)
class Work:
    """The shapes of one module's window, which alone decide how it is contracted."""

    n_sequences: int
    n_tokens: int
    d_in: int
    d_out: int
    n_queries: int
    rank: int | None
    n_bytes: int
    device: str

    @classmethod
    def of(cls, parts: Sequence[Part], queries: Queries) -> Work:
        """The work of scoring a window."""
        inputs, grads = parts[0]
        return cls(
            n_sequences=sum(len(part[0]) for part in parts),
            n_tokens=sum(part[0].shape[0] * part[0].shape[1] for part in parts),
            d_in=inputs.shape[2],
            d_out=grads.shape[2],
            n_queries=queries.n_queries,
            rank=queries.rank,
            n_bytes=inputs.element_size(),
            device=inputs.device.type,
        )

    @property
    def factored(self) -> int:
        """Cost of the factored contraction, in FLOPs; bytes count as the FLOPs they delay."""
        assert self.rank is not None
        columns = self.n_queries * self.rank
        flops = 2 * self.n_tokens * columns * (self.d_in + self.d_out + 1)
        # Both sides are written, read, multiplied into one and summed.
        return flops + self._delay(5 * self.n_tokens * columns)

    @property
    def materialised(self) -> int:
        """Cost of the materialised contraction, in FLOPs; bytes count as the FLOPs they delay."""
        weight = self.d_in * self.d_out
        flops = 2 * weight * (self.n_tokens + self.n_sequences * self.n_queries)
        numbers = 2 * weight * self.n_sequences
        if self.rank is not None:
            flops += 2 * weight * self.n_queries * self.rank
            numbers += 2 * weight * self.n_queries
        return flops + self._delay(numbers)

    @property
    def is_factored(self) -> bool:
        """Whether the factored contraction is the cheaper one."""
        return self.rank is not None and self.factored <= self.materialised

    def _delay(self, numbers: int) -> int:
        return numbers * self.n_bytes * FLOPS_PER_BYTE[self.device]


class Contraction:
    """Scores windows; keeps its temporaries, because fresh memory costs as much as filling it.

    Args:
        dtype: of sequences' gradients D_z; None is that of what they are made of.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self._dtype = dtype
        self._scratch: dict[tuple[str, torch.device], Tensor] = {}

    def scores(
        self,
        parts: Sequence[Part],
        banks: Sequence[Queries | Itself],
        squares: Squares | None = None,
    ) -> list[Tensor]:
        """<P_q, D_z> [n, Q] of each bank for one module, in float32 or wider.

        What a bank gets does not depend on the other banks; they share D_z. ``squares`` gets what
        the module adds to |D_z|^2, from D_z too where that is the cheaper way to it.
        """
        found: list[Tensor | None] = [None] * len(banks)
        materialised: dict[int, Queries] = {}
        for index, queries in enumerate(banks):
            if isinstance(queries, Itself):
                found[index] = queries.scores(parts)
            elif Work.of(parts, queries).is_factored:
                found[index] = factored_scores(parts, queries)
            else:
                materialised[index] = queries
        of_whole = squares if squares is not None and not squares.by_tokens(parts) else None
        if squares is not None and of_whole is None:
            squares.add_tokens(parts)
        if materialised or of_whole is not None:
            scores = self._materialised(parts, list(materialised.values()), of_whole)
            for index, of_bank in zip(materialised, scores, strict=True):
                found[index] = of_bank
        return [of_bank for of_bank in found if of_bank is not None]

    def _materialised(
        self, parts: Sequence[Part], banks: Sequence[Queries], squares: Squares | None
    ) -> list[Tensor]:
        """Through D_z, a band of output rows at a time."""
        d_in, d_out = parts[0][0].shape[2], parts[0][1].shape[2]
        n = sum(len(inputs) for inputs, _ in parts)
        scores: list[Tensor | None] = [None] * len(banks)
        most = TILE_NUMBERS[parts[0][0].device.type]
        for outputs in slices(d_out, max(1, most // (n * d_in))):
            gradients = self._gradients(parts, outputs).flatten(1)
            if squares is not None:
                squares.add_rows(gradients)
            for index, queries in enumerate(banks):
                part = self._products(queries, outputs, gradients, d_in)
                previous = scores[index]
                scores[index] = part if previous is None else previous + part
        wide = accumulation_dtype(parts[0][1].dtype)
        sums_BO = torch.cat([grads.sum(dim=1, dtype=wide) for _, grads in parts])
        if squares is not None and squares.bias:
            squares.add_rows(sums_BO)
        return [
            of_bank + queries.bias_scores(sums_BO)
            for of_bank, queries in zip(scores, banks, strict=True)
            if of_bank is not None
        ]

    def _gradients(self, parts: Sequence[Part], outputs: slice) -> Tensor:
        """A band of D_z [n, o, I] of all sequences."""
        n = sum(len(inputs) for inputs, _ in parts)
        inputs, grads = parts[0]
        shape = n, outputs.stop - outputs.start, inputs.shape[2]
        band = self._temporary("gradients", shape, grads, self._dtype)
        start = 0
        for inputs, grads in parts:
            end = start + len(inputs)
            left = grads[:, :, outputs].transpose(1, 2)
            if band.dtype == left.dtype:
                torch.bmm(left, inputs.to(left.dtype), out=band[start:end])
            else:
                band[start:end] = product(left, inputs)
            start = end
        return band

    def _products(
        self, queries: Queries, outputs: slice, gradients_nK: Tensor, d_in: int
    ) -> Tensor:
        """A band's part of the scores [n, Q]; queries are rebuilt as many at a time as fit."""
        rows = outputs.stop - outputs.start
        columns = []
        most = TILE_NUMBERS[gradients_nK.device.type]
        for some in slices(queries.n_queries, max(1, most // (rows * d_in))):
            shape = (some.stop - some.start, rows, d_in)
            tile = queries.tile(some, outputs, self._temporary("tile", shape, gradients_nK))
            columns.append(product(tile.flatten(1), gradients_nK.T).T)
        return torch.cat(columns, dim=1)

    def _temporary(
        self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Memory of a shape, the same each time; its dtype is ``like``'s where none is given."""
        size, dtype = int(torch.Size(shape).numel()), dtype or like.dtype
        key = name, like.device  # modules may be on several
        there = self._scratch.get(key)
        if there is None or there.numel() < size or there.dtype != dtype:
            there = self._scratch[key] = like.new_empty(size, dtype=dtype)
        return there[:size].view(shape)


def factored_scores(parts: Sequence[Part], queries: Queries) -> Tensor:
    """Scores [n, Q] through the rank: token scores, summed, some sequences at a time."""
    assert queries.rank is not None
    most = TILE_NUMBERS[parts[0][0].device.type] // (4 * queries.n_queries * queries.rank)
    return torch.cat(
        [
            queries.token_scores(inputs[some], grads[some]).sum(dim=1)
            for inputs, grads in parts
            for some in slices(len(inputs), max(1, most // inputs.shape[1]))
        ]
    )
