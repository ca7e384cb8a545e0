"""What a module saw of some sequences of a window, to be scored by token.

T token, I input width, O output width, K token of the chosen sequences, one after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayinfluence.influence.bank import ModuleQueries
from rayinfluence.model.rows import Rows

#: A batch of the window, a sequence's place in it, and how many tokens that has.
Chosen = tuple[int, int, int]


@dataclass(frozen=True)
class ChosenRows:
    """Rows of one module, sequence after sequence.

    Attributes:
        sides: inputs [rows, I] and gradients [rows, O], of all sequences together, or of each.
        spans: of each that the module is called for, its first place in K, its tokens and calls.
        n_tokens: K.
        device: of the module.
    """

    sides: Sequence[tuple[Tensor, Tensor]]
    spans: Sequence[tuple[int, int, int]]
    n_tokens: int
    device: torch.device

    @classmethod
    def of(cls, chosen: Sequence[Chosen], seen: Mapping[int, Rows], joined: bool) -> ChosenRows:
        """Gather them.

        Args:
            chosen: the sequences.
            seen: what the module saw, by batch; a batch that does not reach it is not there.
            joined: together, where a query is the same for all sequences.
        """
        device = next(iter(seen.values())).inputs_BRI.device
        sides, spans, start = [], [], 0
        for batch, row, length in chosen:
            if batch in seen:
                inputs_CTI, grads_CTO = seen[batch].of_sequence(row, length)
                sides.append((inputs_CTI.flatten(0, 1), grads_CTO.flatten(0, 1)))
                spans.append((start, length, len(inputs_CTI)))
            start += length
        if joined and sides:
            inputs, grads = zip(*sides, strict=True)
            sides = [(torch.cat(inputs), torch.cat(grads))]
        return cls(sides, spans, start, device)

    def scores(self, query: ModuleQueries) -> Tensor:
        """Token scores [K] by a query, in float64.

        Zero where a batch does not reach the module; the calls of a module that is called several
        times are added up.
        """
        scores_K = torch.zeros(self.n_tokens, dtype=torch.float64, device=self.device)
        if not self.spans:
            return scores_K
        found = [query.token_scores(i[None], g[None])[0, :, 0] for i, g in self.sides]
        flat = torch.cat(found).double()
        if len(flat) == self.n_tokens and all(n_calls == 1 for *_, n_calls in self.spans):
            return flat
        read = 0
        for start, length, n_calls in self.spans:
            calls = flat[read : read + n_calls * length].view(n_calls, length)
            scores_K[start : start + length] = calls.sum(dim=0)
            read += n_calls * length
        return scores_K
