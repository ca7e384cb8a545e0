"""The query bank: preconditioned gradients of all queries, by module.

B sequence in batch, T token, Q query, R rank, I input width, J = I + 1 where there is a bias, O
output width. A score is the sum over modules of <P_q, D_z> = sum_t g_t^T P_q a_t, where P_q = (G +
lambda I)^-1 grad f_q and D_z = sum_t g_t a_t^T. Positive: training on z makes the completion more
likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rayinfluence.curvature.products import accumulation_dtype
from rayinfluence.curvature.solver import Inverse


@dataclass(frozen=True)
class LowRankQueries:
    """P_q = U_q V_q^T for all queries and one module: left [O, Q, R], right [J, Q, R]."""

    left_OQR: Tensor
    right_JQR: Tensor
    d_in: int

    @property
    def n_queries(self) -> int:
        """Q."""
        return self.left_OQR.shape[1]

    @property
    def rank(self) -> int:
        """R."""
        return self.left_OQR.shape[2]

    def one(self, query: int) -> LowRankQueries:
        """The query at a place, alone."""
        some = slice(query, query + 1)
        return LowRankQueries(self.left_OQR[:, some], self.right_JQR[:, some], self.d_in)

    def token_scores(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """g_t^T P_q a_t [B, T, Q]: (g U) and (a V) meet in rank R."""
        dtype = self.left_OQR.dtype
        left_BTK = grads_BTO.to(dtype) @ self.left_OQR.flatten(1)
        right_BTK = inputs_BTI.to(dtype) @ self.right_JQR[: self.d_in].flatten(1)
        if len(self.right_JQR) > self.d_in:
            right_BTK += self.right_JQR[self.d_in].flatten()
        products_BTQR = left_BTK.mul_(right_BTK).unflatten(-1, (self.n_queries, self.rank))
        scores: Tensor = products_BTQR.sum(dim=-1, dtype=accumulation_dtype(dtype))
        return scores

    def tile(self, queries: slice, outputs: slice, out: Tensor) -> Tensor:
        """Some rows of some P_q [q, o, I], rebuilt into ``out``."""
        left_qoR = self.left_OQR[outputs, queries].transpose(0, 1)
        right_qRI = self.right_JQR[: self.d_in, queries].permute(1, 2, 0)
        return torch.bmm(left_qoR, right_qRI, out=out)

    @cached_property
    def _bias_OQ(self) -> Tensor | None:
        if len(self.right_JQR) == self.d_in:
            return None
        wide = accumulation_dtype(self.left_OQR.dtype)
        return (self.left_OQR.to(wide) * self.right_JQR[self.d_in].to(wide)).sum(dim=2)

    def bias_scores(self, sums_BO: Tensor) -> Tensor | float:
        """What the bias adds to the scores [B, Q]."""
        bias = self._bias_OQ
        return 0.0 if bias is None else sums_BO @ bias


@dataclass(frozen=True)
class DenseQueries:
    """P_q for all queries and one module, whole: [Q, O, J]."""

    matrix_QOJ: Tensor
    d_in: int

    rank = None

    @property
    def n_queries(self) -> int:
        """Q."""
        return self.matrix_QOJ.shape[0]

    def one(self, query: int) -> DenseQueries:
        """The query at a place, alone."""
        return DenseQueries(self.matrix_QOJ[query : query + 1], self.d_in)

    def token_scores(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """g_t^T P_q a_t [B, T, Q], one query at a time."""
        inputs, grads = inputs_BTI.to(self.matrix_QOJ), grads_BTO.to(self.matrix_QOJ)
        columns = []
        for matrix_OJ in self.matrix_QOJ:
            outputs = inputs @ matrix_OJ[:, : self.d_in].T
            if matrix_OJ.shape[1] > self.d_in:
                outputs = outputs + matrix_OJ[:, self.d_in]
            columns.append((grads * outputs).sum(dim=-1, dtype=accumulation_dtype(outputs.dtype)))
        return torch.stack(columns, dim=-1)

    def tile(self, queries: slice, outputs: slice, out: Tensor) -> Tensor:
        """Some rows of some P_q [q, o, I]."""
        return self.matrix_QOJ[queries, outputs, : self.d_in]

    def bias_scores(self, sums_BO: Tensor) -> Tensor | float:
        """What the bias adds to the scores [B, Q]."""
        if self.matrix_QOJ.shape[2] == self.d_in:
            return 0.0
        return sums_BO @ self.matrix_QOJ[:, :, self.d_in].to(sums_BO.dtype).T


class Itself:
    """Each sequence z is its own query, of one module: P_z = (G + lambda I)^-1 D_z.

    A bank of these has one query, whose scores <D_z, (G + lambda I)^-1 D_z> are never negative.

    Args:
        inverse: (G + lambda I)^-1.
        d_in: I.
    """

    n_queries = 1

    def __init__(self, inverse: Inverse, d_in: int) -> None:
        self._inverse = inverse
        self._d_in = d_in

    def one(self, _query: int) -> Itself:
        """The only one."""
        return self

    def scores(self, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The scores [n, 1] of a window, in float64; ``parts`` are inputs and gradients."""
        return torch.cat([self._inverse.quadratic(*part) for part in parts])[:, None]

    def token_scores(self, inputs_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        """g_t^T P_z a_t [B, T, 1], one sequence at a time."""
        found = []
        for inputs_TI, grads_TO in zip(inputs_BTI, grads_BTO, strict=True):
            matrix_OJ = self._inverse.of_tokens(inputs_TI, grads_TO)["dense"]
            query = DenseQueries(matrix_OJ[None], self._d_in)
            found.append(query.token_scores(inputs_TI[None], grads_TO[None]))
        return torch.cat(found)


ModuleQueries = LowRankQueries | DenseQueries | Itself


class QueryBank:
    """All queries of one method, by module.

    Args:
        query_digests: what the queries are, in the order of the Q axis.
        modules: preconditioned gradients by module name.
        normalised: whether scores are divided by |D_z|; then P_q is of a gradient of length 1.
    """

    def __init__(
        self,
        query_digests: Sequence[str],
        modules: Mapping[str, ModuleQueries],
        normalised: bool = False,
    ) -> None:
        self.query_digests = list(query_digests)
        self.modules = dict(modules)
        self.normalised = normalised

    def __len__(self) -> int:
        return len(self.query_digests)

    @classmethod
    def from_tensors(
        cls,
        query_digests: Sequence[str],
        tensors: Mapping[str, Tensor],
        input_widths: Mapping[str, int],
        normalised: bool = False,
    ) -> QueryBank:
        """A bank from what :func:`stack_queries` made.

        Args:
            query_digests: of the queries.
            tensors: by module and part.
            input_widths: I of every module.
            normalised: as above.
        """
        modules: dict[str, ModuleQueries] = {}
        for key, tensor in tensors.items():
            name, part = key.rsplit("/", 1)
            if part == "dense":
                modules[name] = DenseQueries(tensor, input_widths[name])
            elif part == "left":
                modules[name] = LowRankQueries(tensor, tensors[f"{name}/right"], input_widths[name])
        return cls(query_digests, modules, normalised)


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
