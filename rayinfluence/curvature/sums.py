"""Sums over tokens and sequences from which the factors are made.

B sequence in batch, T token, N real token in batch, I input width, J = I + 1 where there is a bias
(a one, LAST), O output width, D either. For a module with inputs a and output gradients g (Grosse
et al. 2023, section 2.2; George et al. 2018):

    A = sum a a^T / n_tokens [J, J]     S = sum g g^T / n_tokens [O, O] D = sum_t g_t a_t^T of ONE
    sequence [O, J]     Lambda = mean over sequences of (Q_S^T D Q_A)^2 [O, J]

Sums are kept in float32, or float64 where the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rayinfluence.curvature.blocks import Basis, block_sizes
from rayinfluence.curvature.products import add_gram, mirrored, product

#: Numbers of rotated gradients that exist at a time: few enough for a processor's last cache.
_TILE_NUMBERS = 1 << 21


@dataclass
class GramSums:
    """Sums over rows x [D]: of x x^T by blocks of the diagonal, of x where asked for, and of ones.

    Or of the diagonal of x x^T alone [D].

    A module that is called n times per forward pass has n rows per token. ``counted``: whether the
    number of rows is kept.
    """

    blocks: list[Tensor]
    total_D: Tensor | None
    counted: bool
    n_rows: int = 0

    @classmethod
    def of_diagonal(cls, width: int, dtype: torch.dtype, device: torch.device) -> GramSums:
        """The identity of addition, for the diagonal alone; arguments as of :meth:`zeros`."""
        return cls([torch.zeros(width, dtype=dtype, device=device)], None, counted=False)

    @classmethod
    def zeros(
        cls,
        width: int,
        n_blocks: int,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device,
        counted: bool = False,
    ) -> GramSums:
        """The identity of addition.

        Args:
            width: of the rows, without the one of a bias.
            n_blocks: of the factor.
            bias: also sum x, for the border that a one adds.
            dtype: of the sums.
            device: where they are.
            counted: also keep the number of rows, as a bias needs anyway.
        """
        # The one of a bias belongs to the last block.
        sizes = block_sizes(width + int(bias), n_blocks)
        sizes[-1] -= int(bias)
        blocks = [torch.zeros(size, size, dtype=dtype, device=device) for size in sizes]
        total = torch.zeros(width, dtype=dtype, device=device) if bias else None
        return cls(blocks, total, counted or bias)

    def add(self, rows_ND: Tensor) -> None:
        """Add rows."""
        parts = rows_ND.split([len(block) for block in self.blocks], dim=1)
        for block, part in zip(self.blocks, parts, strict=True):
            if block.ndim == 2:
                add_gram(block, part)
            else:
                block += part.square().sum(dim=0, dtype=block.dtype)
        if self.total_D is not None:
            self.total_D += rows_ND.sum(dim=0, dtype=self.total_D.dtype)
        self.n_rows += len(rows_ND)

    def to_tensors(self) -> dict[str, Tensor]:
        """Whole blocks ``0``, ``1`` ..., the sum of rows ``sum`` [D] and their number ``rows``."""
        tensors = {
            str(index): mirrored(block) if block.ndim == 2 else block
            for index, block in enumerate(self.blocks)
        }
        if self.total_D is not None:
            tensors["sum"] = self.total_D
        if self.counted:
            tensors["rows"] = torch.tensor(float(self.n_rows), dtype=torch.float64)
        return tensors

    def load(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Go on from sums that :meth:`to_tensors` gave, to the same bits as without a break."""
        for index, block in enumerate(self.blocks):
            block.copy_(tensors[f"{prefix}{index}"])
        if self.total_D is not None:
            self.total_D.copy_(tensors[f"{prefix}sum"])
        if self.counted:
            self.n_rows = int(tensors[f"{prefix}rows"])


def homogeneous(block_DD: Tensor, total_D: Tensor, n_rows: Tensor) -> Tensor:
    """The sum of x x^T for rows with a one LAST, bordered from the sums without it."""
    corner = n_rows.to(block_DD).reshape(1)
    total_D = total_D.to(block_DD)
    top = torch.cat([block_DD, total_D[:, None]], dim=1)
    return torch.cat([top, torch.cat([total_D, corner])[None, :]], dim=0)


def rotate_inputs(inputs: Tensor, basis: Basis) -> Tensor:
    """[inputs, 1] Q_A [..., J] of inputs [..., I]; the one, if there is a bias, is not written."""
    inputs = inputs.to(basis.blocks[0].dtype)
    if basis.width > inputs.shape[-1]:
        return basis.rotate_inputs(inputs)
    return basis.rotate(inputs)


def rotated_gradients(
    inputs_BTI: Tensor,
    grads_BTO: Tensor,
    inputs_basis: Basis,
    outputs_basis: Basis,
    rotated: Callable[[], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Q_S^T D Q_A [b, O, J] of the sequences of a batch, some at a time.

    Each side is rotated where it is cheaper: token by token when the sequence is no longer than the
    other width, or else the summed gradient. The bias column is never built: it contributes the
    last row of Q_A to every rotated token.

    Args:
        inputs_BTI: of the module.
        grads_BTO: of the module's outputs.
        inputs_basis: Q_A.
        outputs_basis: Q_S.
        rotated: gives the inputs in the basis of Q_A, where modules that share them have it made
            once; called when it is needed.
    """
    n_tokens, d_in, d_out = *inputs_BTI.shape[1:], grads_BTO.shape[2]
    operand = outputs_basis.blocks[0].dtype
    tokens_first = n_tokens <= d_out, n_tokens <= d_in
    grads = grads_BTO.to(operand)
    if tokens_first[1]:
        grads = outputs_basis.rotate(grads)
    inputs = inputs_BTI.to(operand)
    if tokens_first[0]:
        inputs = rotate_inputs(inputs_BTI, inputs_basis) if rotated is None else rotated()
    step = max(1, _TILE_NUMBERS // (d_out * inputs_basis.width))
    for start in range(0, len(grads), step):
        some = slice(start, start + step)
        gradient = product(grads[some].transpose(1, 2), inputs[some])
        if not tokens_first[0]:
            if inputs_basis.width > d_in:
                sums = grads[some].sum(dim=1, dtype=gradient.dtype)
                gradient = torch.cat([gradient, sums[:, :, None]], dim=2)
            gradient = inputs_basis.rotate(gradient.to(operand))
        if not tokens_first[1]:
            gradient = outputs_basis.rotate(gradient.transpose(1, 2).to(operand)).transpose(1, 2)
        yield gradient


def plain_gradients(inputs_BTI: Tensor, grads_BTO: Tensor, bias: bool) -> Iterator[Tensor]:
    """D [b, O, J] of the sequences of a batch, some at a time: in the basis that they are in."""
    columns, d_out = inputs_BTI.shape[2] + int(bias), grads_BTO.shape[2]
    dtype, device = inputs_BTI.dtype, inputs_BTI.device
    return rotated_gradients(
        inputs_BTI,
        grads_BTO,
        Basis.identity(columns, dtype, device),
        Basis.identity(d_out, dtype, device),
    )


def sums_of_squares(gradients: Iterable[Tensor], weights_OJ: Tensor | None = None) -> Tensor:
    """Sums of D^2 [B], in float64, each entry times its weight where there are weights.

    Args:
        gradients: D [b, O, J] of some sequences at a time.
        weights_OJ: none is negative.
    """
    squares = (gradient_bOJ.square() for gradient_bOJ in gradients)
    weighted = squares if weights_OJ is None else (one * weights_OJ.to(one) for one in squares)
    return torch.cat([one.flatten(1).sum(dim=1, dtype=torch.float64) for one in weighted])


def tree_sum(parts: Iterable[Mapping[str, Tensor] | None]) -> dict[str, Tensor]:
    """Sum named tensors pairwise in one fixed tree, in float64; None is the identity.

    The tree depends on the number of parts alone, so the sum has the same bits whoever made the
    parts. They are taken as they come: of n parts no more than log2(n) + 2 sums exist at a time.
    """
    # Sums of 2^level neighbours, the earliest first.
    waiting: list[tuple[int, dict[str, Tensor] | None]] = []
    for part in parts:
        level = 0
        total = None if part is None else {name: one.double() for name, one in part.items()}
        while waiting and waiting[-1][0] == level:
            total, level = _add(waiting.pop()[1], total), level + 1
        waiting.append((level, total))
    whole: dict[str, Tensor] | None = None
    while waiting:
        whole = _add(waiting.pop()[1], whole)
    return whole or {}


def _add(
    left: dict[str, Tensor] | None, right: dict[str, Tensor] | None
) -> dict[str, Tensor] | None:
    if left is None or right is None:
        return right if left is None else left
    return {name: left[name] + right[name] for name in left}
