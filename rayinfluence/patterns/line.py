"""A model along the line from a baseline to an input, as linear maps from block to block.

Distributional influence over that line (Leino et al. 2018; Lu et al. 2021): with Q what
is asked, x what the tokens are embedded as and b the baseline, the influence of token t is

    I_t = E_a[ dQ/dx_t at b + a (x - b) ] . (x_t - b_t),     a uniform in [0, 1],

and by the fundamental theorem of calculus these add up to Q(x) - Q(b). The derivative is a product
of one Jacobian for each block, and each of these a sum over pairs of tokens and ways (a head, or
the skip connection), so that I_t is a sum over all paths. A pattern is a set of them.

Everything is in two maps of a block, at each point of the line: *push* takes what a change of its
input is to its output (forward mode), and *pull* what a change of its output is to its input
(reverse mode). A way is closed where its gate lets the value through and no derivative.

K change that is followed beside others, R point of the line, T token, D width, H head, C column of
a head, L block, N row, W columns of all heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad

from rayinfluence.errors import NumericsError
from rayinfluence.patterns.anatomy import Anatomy
from rayinfluence.patterns.gates import Gates, gated
from rayinfluence.patterns.question import Question
from rayinfluence.patterns.trace import ends, tangent_of, trace

#: The way past the heads; any other is the number of a head.
SKIP = -1
#: Of all influence that there is at a block in size: by how much its ways may miss it.
_MISSED = 1e-3


def quadrature(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of [0, 1] and their weights [R], by Gauss and Legendre.

    The mean over evenly spaced points, which the paper takes, misses the integral by about 1 / n;
    this is exact for polynomials of degree 2 n - 1.
    """
    points, weights = np.polynomial.legendre.leggauss(n)
    return (points + 1) / 2, weights / 2


@dataclass(frozen=True)
class Pushed:
    """What changes of a block's input are, further on.

    Attributes:
        heads_KRTHC: to what the heads give.
        output_KRTD: to what the block gives.
    """

    heads_KRTHC: Tensor
    output_KRTD: Tensor


@dataclass(frozen=True)
class Pulled:
    """What changes of a block's output are, before.

    Attributes:
        skip_KRTD: to its input, by the skip connection alone.
        attention_KRTD: to its input, by all heads.
        heads_KRTHC: to what the heads give.
    """

    skip_KRTD: Tensor
    attention_KRTD: Tensor
    heads_KRTHC: Tensor

    @property
    def input_KRTD(self) -> Tensor:
        """To its input, by all ways."""
        return self.skip_KRTD + self.attention_KRTD


@dataclass(frozen=True)
class Shares:
    """How the whole influence is parted at each depth; each adds up to it.

    Attributes:
        positions_LT: over tokens, from before the first block (0) to behind the last.
        heads_LTH: over heads at tokens, of each block; with ``skips_LT`` they add up.
        skips_LT: over the skip connection at tokens, of each block.
    """

    positions_LT: NDArray[np.float64]
    heads_LTH: NDArray[np.float64]
    skips_LT: NDArray[np.float64]


class Line:
    """The line of a question, with all that patterns are made of.

    Attributes:
        question: that is asked.
        n_blocks, n_heads: of the model.
        starts: tokens whose embedding is not the baseline.
        gradients: of Q in what the first block gets, and in what each block gives, [R, T, D].
        shares: of the whole influence.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        question: Question,
        baseline_D: Tensor,
        points: int,
    ) -> None:
        """Run a model over the line, and every block back and forth.

        Args:
            model: that takes ``inputs_embeds``; frozen, in evaluation mode.
            anatomy: of it.
            question: what is asked.
            baseline_D: what the line of every token begins at, but of those that are kept.
            points: of the line.

        Raises:
            NumericsError: the ways through a block do not add up to what flows through it.
        """
        self.question, self.n_heads = question, anatomy.n_heads
        self._blocks = anatomy.blocks
        places, weights = quadrature(points)
        start_TD, step_TD = ends(model, question, baseline_D)
        self._weights_R = torch.from_numpy(weights).to(step_TD)
        along_RTD = start_TD + torch.from_numpy(places).to(step_TD)[:, None, None] * step_TD
        self.starts = tuple(step_TD.ne(0).any(1).nonzero().flatten().tolist())
        self._seen = trace(model, anatomy.blocks, question, along_RTD, step_TD)
        self.gradients = [self._seen.gradient_RTD]
        self.shares = self._parted()
        self._refuse_lost()

    @property
    def n_blocks(self) -> int:
        """How many blocks the model has."""
        return len(self._blocks)

    @property
    def tangents_RTD(self) -> Tensor:
        """Of what the first block gets, to the step from the baseline to the input."""
        return self._seen.tangent_RTD

    def mean(self, products_KR: Tensor) -> NDArray[np.float64]:
        """The expectations over the line, of numbers at each point: [K, R, ...] -> [K, ...]."""
        means = torch.tensordot(products_KR, self._weights_R, ([1], [0]))
        found: NDArray[np.float64] = means.double().cpu().numpy()
        return found

    def push(self, block: int, tangent_KRTD: Tensor, ways: Sequence[int] | None = None) -> Pushed:
        """What changes of a block's input are to its output.

        Args:
            block: its number, from 0.
            tangent_KRTD: the changes.
            ways: that is open, for each change; all are where it is None.
        """
        k = len(tangent_KRTD)
        tangent = tangent_KRTD.flatten(0, 1)
        heads: list[Tensor] = []

        def change(value: Tensor) -> Tensor:
            dual: Tensor = forward_ad.make_dual(value, tangent)
            return dual

        def by_skip(value: Tensor) -> Tensor:
            if ways is None:
                return change(value)
            is_open = self._rows([float(way == SKIP) for way in ways])
            dual: Tensor = forward_ad.make_dual(value, tangent * is_open[:, None, None])
            return dual

        def of_heads(value: Tensor) -> Tensor:
            given = self._by_head(tangent_of(value))
            if ways is not None:
                each = [[float(way == head) for head in range(self.n_heads)] for way in ways]
                given = given * self._rows(each)[:, None, :, None]
            heads.append(given)
            primal = forward_ad.unpack_dual(value).primal
            dual: Tensor = forward_ad.make_dual(primal, given.flatten(2))
            return dual

        gates = Gates(attention=change, skip=by_skip, heads=of_heads)
        with torch.no_grad(), forward_ad.dual_level():
            output = tangent_of(self._run(block, self._given(block, k), gates))
        return Pushed(*(one.unflatten(0, (k, -1)) for one in (heads[0], output)))

    def pull(self, block: int, cotangent_KRTD: Tensor) -> Pulled:
        """What changes of a block's output are to its input, by all ways.

        Args:
            block: its number, from 0.
            cotangent_KRTD: gradients in its output.
        """
        k = len(cotangent_KRTD)
        read = self._given(block, k).clone().requires_grad_(True)
        past = read.detach().clone().requires_grad_(True)
        heads: list[Tensor] = []

        def of_heads(value: Tensor) -> Tensor:
            heads.append(value)
            return value

        with torch.enable_grad():
            gates = Gates(attention=lambda _: read, skip=lambda _: past, heads=of_heads)
            output = self._run(block, read, gates)
            found = torch.autograd.grad(
                output, [past, read, heads[0]], cotangent_KRTD.flatten(0, 1)
            )
        skip, attention, by_heads = (one.unflatten(0, (k, -1)) for one in found)
        return Pulled(skip, attention, by_heads.unflatten(3, (self.n_heads, -1)))

    def _given(self, block: int, k: int) -> Tensor:
        """What a block is given at each point, once for each of some changes."""
        return self._seen.hidden[block].repeat(k, 1, 1)

    def _run(self, block: int, given: Tensor, gates: Gates) -> Tensor:
        args, kwargs = self._seen.calls[block]
        with gated(self._blocks[block], gates):
            output = self._blocks[block].whole(given, *args, **kwargs)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found

    def _by_head(self, wide_NTW: Tensor) -> Tensor:
        by_head: Tensor = wide_NTW.unflatten(2, (self.n_heads, -1))
        return by_head

    def _rows(self, of_changes: Sequence[Any]) -> Tensor:
        """Numbers of each change as those of its points."""
        rows: Tensor = torch.tensor(of_changes).to(self._weights_R)
        return rows.repeat_interleave(len(self._weights_R), 0)

    def _parted(self) -> Shares:
        """Gradients in front of every block, by the pulls, and the shares that pushes meet with."""
        pulled = []
        for block in reversed(range(self.n_blocks)):
            pulled.append(self.pull(block, self.gradients[0][None]))
            self.gradients.insert(0, pulled[-1].input_KRTD[0])
        tangent = self.tangents_RTD[None]
        positions, heads, skips = [self._met(self.gradients[0], tangent)], [], []
        for block, back in enumerate(reversed(pulled)):
            pushed = self.push(block, tangent)
            skips.append(self._met(back.skip_KRTD, tangent))
            heads.append(self._met(back.heads_KRTHC, pushed.heads_KRTHC))
            tangent = pushed.output_KRTD
            positions.append(self._met(self.gradients[block + 1], tangent))
        return Shares(np.stack(positions), np.stack(heads), np.stack(skips))

    def _met(self, gradient: Tensor, tangent: Tensor) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.mean((gradient * tangent).sum(-1))[0]
        return found

    def _refuse_lost(self) -> None:
        """See that nothing flows past what is known of a block."""
        whole = self.shares.positions_LT.sum(1)
        ways = self.shares.heads_LTH.sum((1, 2)) + self.shares.skips_LT.sum(1)
        size = np.abs(self.shares.heads_LTH).sum((1, 2)) + np.abs(self.shares.skips_LT).sum(1)
        lost = np.abs(ways - whole[1:]) + np.abs(ways - whole[:-1])
        # So that what is not finite is refused, too.
        if not (lost <= _MISSED * size + np.finfo(np.float32).tiny).all():
            block = int(np.argmax(~(lost <= _MISSED * size)))
            raise NumericsError(
                f"patterns: of query {self.question.query_id!r} {whole[0]:.4g} flows through the "
                f"model, and {ways[block]:.4g} through the heads and the skip connection of block "
                f"{block + 1}. The numbers of the model overflow, or the installed transformers "
                "computes such blocks otherwise than is known here."
            )


def at(tangent_KRTD: Tensor, positions_K: Sequence[int]) -> Tensor:
    """Changes at one token each, and nothing elsewhere."""
    kept = torch.zeros_like(tangent_KRTD)
    for number, position in enumerate(positions_K):
        kept[number, :, position] = tangent_KRTD[number, :, position]
    return kept
