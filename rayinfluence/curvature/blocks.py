"""Block-diagonal orthogonal bases.

D width, J = I + 1 where there is a bias (a one, LAST). A wide factor can be split into contiguous
blocks, each with an eigenbasis of its own (Grosse et al. 2023, appendix A): the memory of factors
and the time of their eigendecompositions fall with the number of blocks, and its square. One block
is the exact form. Lambda stays whole: every entry of the weight has one.

A block of one dimension is the identity, whose ones it holds: the basis of a diagonal factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def block_sizes(width: int, n_blocks: int) -> list[int]:
    """Widths of contiguous blocks, as equal as can be, the larger ones first."""
    n_blocks = min(n_blocks, width)
    return [width // n_blocks + int(i < width % n_blocks) for i in range(n_blocks)]


@dataclass(frozen=True)
class Basis:
    """Orthogonal blocks on the diagonal of Q [D, D]; eigenvectors in columns, or [D] ones."""

    blocks: tuple[Tensor, ...]

    @classmethod
    def identity(cls, width: int, dtype: torch.dtype, device: torch.device) -> Basis:
        """Q = I [D, D], as one block of ones."""
        return cls((torch.ones(width, dtype=dtype, device=device),))

    @property
    def width(self) -> int:
        """D."""
        return sum(len(block) for block in self.blocks)

    @property
    def sizes(self) -> list[int]:
        """Widths of the blocks."""
        return [len(block) for block in self.blocks]

    def rotate(self, rows: Tensor) -> Tensor:
        """Rows Q, for rows [..., D]."""
        parts = self._split(rows)
        return _join([_times(x, block) for x, block in zip(parts, self.blocks, strict=True)])

    def rotate_inputs(self, rows: Tensor) -> Tensor:
        """[rows, 1] Q for rows [..., D - 1]: the one is never written down."""
        last = self.blocks[-1]
        split: list[Tensor] = list(rows.split([*self.sizes[:-1], len(last) - 1], dim=-1))
        *parts, tail = split
        rotated: list[Tensor] = [_times(x, b) for x, b in zip(parts, self.blocks[:-1], strict=True)]
        if last.ndim == 1:
            return _join([*rotated, tail, tail.new_ones(*tail.shape[:-1], 1)])
        return _join(
            [
                *rotated,
                torch.addmm(last[-1], tail.flatten(0, -2), last[:-1]).unflatten(0, tail.shape[:-1]),
            ]
        )

    def rotate_back(self, rows: Tensor) -> Tensor:
        """Rows Q^T, for rows [..., D]."""
        parts = self._split(rows)
        return _join(
            [_times(x, block, back=True) for x, block in zip(parts, self.blocks, strict=True)]
        )

    def to(self, *, dtype: torch.dtype, device: torch.device) -> Basis:
        """The basis in another dtype, on another device."""
        return Basis(tuple(block.to(dtype=dtype, device=device) for block in self.blocks))

    def dense(self) -> Tensor:
        """Q [D, D]."""
        square = [block if block.ndim == 2 else torch.diag(block) for block in self.blocks]
        dense: Tensor = torch.block_diag(*square)
        return dense

    def to_tensors(self, name: str) -> dict[str, Tensor]:
        """The blocks as named tensors: ``<name>.<block>``."""
        return {f"{name}.{index}": block for index, block in enumerate(self.blocks)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], name: str) -> Basis:
        """The inverse of :meth:`to_tensors`."""
        blocks: list[Tensor] = []
        while (key := f"{name}.{len(blocks)}") in tensors:
            blocks.append(tensors[key])
        return cls(tuple(blocks))

    def _split(self, rows: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = rows.split(self.sizes, dim=-1)
        return parts


def _times(rows: Tensor, block: Tensor, back: bool = False) -> Tensor:
    if block.ndim == 1:
        return rows
    return rows @ (block.T if back else block)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
