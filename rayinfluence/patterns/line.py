"""A model along the line from a baseline to an input, as linear maps from block to block.

Distributional influence over that line (Leino et al. 2018; Lu et al. 2021, section 3): with Q what
is asked, x what the tokens are embedded as and b the baseline, the influence of token t is

    I_t = E_a[ dQ/dx_t at b + a (x - b) ] . (x_t - b_t),     a uniform in [0, 1],

and by the fundamental theorem of calculus these add up to Q(x) - Q(b). The derivative is a product
of one Jacobian for each block, and each of these a sum over pairs of tokens and ways (a head, or
the skip connection), so that I_t is a sum over all paths. A pattern is a set of them.

Everything is in two maps of a block, at each point of the line: *push* takes what a change of its
input is to its output (forward mode), and *pull* what a change of its output is to its input
(reverse mode). A way is closed where its gate lets the value through and no derivative.

R point of the line, T token, D width, H head, C column of a head, L block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import forward_ad

from rayinfluence.errors import NumericsError
from rayinfluence.patterns.anatomy import Anatomy
from rayinfluence.patterns.gates import Gates, as_it_is, gated
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
    """What a change of a block's input is, further on.

    Attributes:
        heads_RTHC: to what the heads give.
        output_RTD: to what the block gives.
    """

    heads_RTHC: Tensor
    output_RTD: Tensor


@dataclass(frozen=True)
class Pulled:
    """What a change of a block's output is, before.

    Attributes:
        skip_RTD: to its input, by the skip connection alone.
        attention_RTD: to its input, by all heads.
        heads_RTHC: to what the heads give.
    """

    skip_RTD: Tensor
    attention_RTD: Tensor
    heads_RTHC: Tensor

    @property
    def input_RTD(self) -> Tensor:
        """To its input, by all ways."""
        return self.skip_RTD + self.attention_RTD


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

    def mean(self, products_R: Tensor) -> Any:
        """The expectation over the line, of one number at each point or of several [R, ...]."""
        return torch.tensordot(self._weights_R, products_R, 1).double().cpu().numpy()

    def push(self, block: int, tangent_RTD: Tensor, way: int | None = None) -> Pushed:
        """What a change of a block's input is to its output.

        Args:
            block: its number, from 0.
            tangent_RTD: the change.
            way: that is open; all are where it is None.
        """
        heads: list[Tensor] = []

        def change(value: Tensor) -> Tensor:
            dual: Tensor = forward_ad.make_dual(value, tangent_RTD)
            return dual

        def of_heads(value: Tensor) -> Tensor:
            tangent = self._by_head(tangent_of(value))
            if way is not None and way != SKIP:
                chosen = torch.zeros_like(tangent)
                chosen[:, :, way] = tangent[:, :, way]
                tangent = chosen
                primal = forward_ad.unpack_dual(value).primal
                value = forward_ad.make_dual(primal, tangent.flatten(2))
            heads.append(tangent)
            return value

        gates = Gates(
            attention=as_it_is if way == SKIP else change,
            skip=change if way in (None, SKIP) else as_it_is,
            heads=of_heads,
        )
        with torch.no_grad(), forward_ad.dual_level():
            output = self._run(block, gates)
            return Pushed(heads[0], tangent_of(output))

    def pull(self, block: int, cotangent_RTD: Tensor) -> Pulled:
        """What a change of a block's output is to its input, by all ways.

        Args:
            block: its number, from 0.
            cotangent_RTD: the gradient in its output.
        """
        leaf = self._seen.hidden[block].detach().clone().requires_grad_(True)
        other = leaf.detach().clone().requires_grad_(True)
        heads: list[Tensor] = []

        def of_heads(value: Tensor) -> Tensor:
            heads.append(value)
            return value

        with torch.enable_grad():
            gates = Gates(attention=lambda _: leaf, skip=lambda _: other, heads=of_heads)
            output = self._run(block, gates)
            attention, skip, by_heads = torch.autograd.grad(
                output, [leaf, other, heads[0]], cotangent_RTD
            )
        return Pulled(skip, attention, self._by_head(by_heads))

    def _run(self, block: int, gates: Gates) -> Tensor:
        args, kwargs = self._seen.calls[block]
        with gated(self._blocks[block], gates):
            output = self._blocks[block].whole(self._seen.hidden[block], *args, **kwargs)
        given: Tensor = output[0] if isinstance(output, tuple) else output
        return given

    def _by_head(self, wide_RTW: Tensor) -> Tensor:
        by_head: Tensor = wide_RTW.unflatten(2, (self.n_heads, -1))
        return by_head

    def _parted(self) -> Shares:
        """Gradients in front of every block, by the pulls, and the shares that pushes meet with."""
        pulled = []
        for block in reversed(range(self.n_blocks)):
            pulled.append(self.pull(block, self.gradients[0]))
            self.gradients.insert(0, pulled[-1].input_RTD)
        tangent = self.tangents_RTD
        positions, heads, skips = [self._met(self.gradients[0], tangent)], [], []
        for block, back in enumerate(reversed(pulled)):
            pushed = self.push(block, tangent)
            skips.append(self._met(back.skip_RTD, tangent))
            heads.append(self._met(back.heads_RTHC, pushed.heads_RTHC))
            tangent = pushed.output_RTD
            positions.append(self._met(self.gradients[block + 1], tangent))
        return Shares(np.stack(positions), np.stack(heads), np.stack(skips))

    def _met(self, gradient: Tensor, tangent: Tensor) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.mean((gradient * tangent).sum(-1))
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


def only(tangent_RTD: Tensor, position: int) -> Tensor:
    """A change at one token alone."""
    kept = torch.zeros_like(tangent_RTD)
    kept[:, position] = tangent_RTD[:, position]
    return kept
