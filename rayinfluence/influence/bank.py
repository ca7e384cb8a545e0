"""The query bank: preconditioned gradients of all queries, and scores with them.

B sequence in batch, T token, Q query, R rank, I input width, J = I + 1 where there is a bias, O
output width, K = Q R. A score is the sum over modules of <P_q, D_z> = sum_t g_t^T P_q a_t, where
P_q = (G + lambda I)^-1 grad f_q and D_z = sum_t g_t a_t^T. Positive: training on z makes the
completion more likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Most numbers in a temporary of the materialised contraction.
_TILE_NUMBERS = 1 << 24


@dataclass(frozen=True)
class LowRankQueries:
    """P_q = U_q V_q^T for all queries and one module: left [O, Q, R], right [J, Q, R]."""

    left_OQR: Tensor
    right_JQR: Tensor

    def scores(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """<P_q, D_z> [B, Q], by the contraction that needs fewer operations for these shapes."""
        n_sequences, n_tokens, d_in = inputs_BTI.shape
        d_out, n_queries, rank = self.left_OQR.shape
        factored = n_sequences * n_tokens * n_queries * rank * (d_in + d_out)
        materialised = d_in * d_out * (n_sequences * (n_tokens + n_queries) + n_queries * rank)
        if factored <= materialised:
            return self.token_scores(inputs_BTI, grads_BTO).sum(dim=1)
        return materialised_scores(inputs_BTI, grads_BTO, self.dense_tile, n_queries)

    def token_scores(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """g_t^T P_q a_t [B, T, Q], factored: (g U) and (a V) meet in rank R."""
        d_in = inputs_BTI.shape[2]
        n_queries, rank = self.left_OQR.shape[1:]
        dtype = self.left_OQR.dtype
        left_BTK = grads_BTO.to(dtype) @ self.left_OQR.flatten(1)
        right_BTK = inputs_BTI.to(dtype) @ self.right_JQR[:d_in].flatten(1)
        if self.right_JQR.shape[0] > d_in:
            right_BTK += self.right_JQR[d_in].flatten()
        products_BTQR: Tensor = left_BTK.mul_(right_BTK).unflatten(-1, (n_queries, rank))
        return products_BTQR.sum(dim=-1)

    def dense_tile(self, start: int, end: int) -> Tensor:
        """Rows ``start:end`` of every P_q [Q, end - start, J]."""
        return torch.einsum("oqr,jqr->qoj", self.left_OQR[start:end], self.right_JQR)

    def select(self, queries: Sequence[int]) -> LowRankQueries:
        """Some of the queries."""
        return LowRankQueries(self.left_OQR[:, queries], self.right_JQR[:, queries])


@dataclass(frozen=True)
class DenseQueries:
    """P_q for all queries and one module, whole: [Q, O, J]."""

    matrix_QOJ: Tensor

    def scores(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """<P_q, D_z> [B, Q]."""
        return materialised_scores(inputs_BTI, grads_BTO, self.dense_tile, self.matrix_QOJ.shape[0])

    def token_scores(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """g_t^T P_q a_t [B, T, Q], one query at a time."""
        d_in = inputs_BTI.shape[2]
        inputs, grads = inputs_BTI.to(self.matrix_QOJ), grads_BTO.to(self.matrix_QOJ)
        columns = []
        for matrix_OJ in self.matrix_QOJ:
            outputs = inputs @ matrix_OJ[:, :d_in].T
            if matrix_OJ.shape[1] > d_in:
                outputs = outputs + matrix_OJ[:, d_in]
            columns.append((grads * outputs).sum(dim=-1))
        return torch.stack(columns, dim=-1)

    def dense_tile(self, start: int, end: int) -> Tensor:
        """Rows ``start:end`` of every P_q [Q, end - start, J]."""
        return self.matrix_QOJ[:, start:end]

    def select(self, queries: Sequence[int]) -> DenseQueries:
        """Some of the queries."""
        return DenseQueries(self.matrix_QOJ[queries])


ModuleQueries = LowRankQueries | DenseQueries


def materialised_scores(
    inputs_BTI: Tensor, grads_BTO: Tensor, dense_tile: object, n_queries: int
) -> Tensor:
    """<P_q, D_z> [B, Q] through the sequences' gradients D_z, a band of output rows at a time."""
    assert callable(dense_tile)
    n_sequences, _, d_in = inputs_BTI.shape
    d_out = grads_BTO.shape[2]
    rows = max(1, _TILE_NUMBERS // (max(n_sequences, n_queries) * (d_in + 1)))
    scores: Tensor | None = None
    for start in range(0, d_out, rows):
        end = min(start + rows, d_out)
        tile_QOJ = dense_tile(start, end)
        grads = grads_BTO[:, :, start:end].to(tile_QOJ.dtype)
        gradient_BOI = grads.transpose(1, 2) @ inputs_BTI.to(tile_QOJ.dtype)
        part = gradient_BOI.flatten(1) @ tile_QOJ[:, :, :d_in].flatten(1).T
        if tile_QOJ.shape[2] > d_in:
            part = part + grads.sum(dim=1) @ tile_QOJ[:, :, d_in].T
        scores = part if scores is None else scores + part
    assert scores is not None
    return scores


class QueryBank:
    """All queries of one method, by module.

    Args:
        query_digests: what the queries are, in the order of the Q axis.
        modules: preconditioned gradients by module name.
    """

    def __init__(self, query_digests: Sequence[str], modules: Mapping[str, ModuleQueries]) -> None:
        self.query_digests = list(query_digests)
        self.modules = dict(modules)

    def __len__(self) -> int:
        return len(self.query_digests)

    @classmethod
    def from_tensors(cls, query_digests: Sequence[str], tensors: Mapping[str, Tensor]) -> QueryBank:
        """A bank from what :func:`stack_queries` made."""
        modules: dict[str, ModuleQueries] = {}
        for key, tensor in tensors.items():
            name, part = key.rsplit("/", 1)
            if part == "dense":
                modules[name] = DenseQueries(tensor)
            elif part == "left":
                modules[name] = LowRankQueries(tensor, tensors[f"{name}/right"])
        return cls(query_digests, modules)


def stack_queries(queries: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join queries that were preconditioned one by one.

    Args:
        queries: named tensors of each: ``<module>/left`` [O, R] and ``<module>/right`` [J, R], or
            ``<module>/dense`` [O, J].

    Returns:
        ``<module>/left`` [O, Q, R] and ``<module>/right`` [J, Q, R], or ``<module>/dense`` [Q, O,
        J].
    """
    return {
        key: torch.stack(
            [query[key] for query in queries], dim=0 if key.endswith("/dense") else 1
        ).contiguous()
        for key in queries[0]
    }
