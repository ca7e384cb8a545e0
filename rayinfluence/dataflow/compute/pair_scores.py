"""Scores by pairs of tokens: what a part of a completion has to do with a token of a sequence.

f is a sum over the parts c of the completion, and the gradient D of a sequence one over its rows,
so that the score is a sum over both sides:

    s(c, t) = sum over modules and rows of token t of  <(G + lambda I)^-1 grad f_c, g a^T>

Over c these are the sequence's scores by token, over t the score of f_c alone. A module at a time:
the gradient of no more than one part is whole, and what the module saw of the query is dropped.

C part, T token of a sequence, K token of the chosen sequences, one after another, M method, B batch
of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.products import accumulation_dtype
from rayinfluence.curvature.solver import Solver
from rayinfluence.dataflow.compute.chosen_rows import Chosen, ChosenRows
from rayinfluence.dataflow.compute.completion_parts import part_gradients
from rayinfluence.dataflow.compute.replica import Quarantine, Replica, own_labels
from rayinfluence.dataflow.compute.scoring import Held, Part, query_gradient
from rayinfluence.dataflow.compute.unit_gradients import per_norm
from rayinfluence.errors import NumericsError
from rayinfluence.influence.bank import DenseQueries
from rayinfluence.influence.contraction import Contraction
from rayinfluence.influence.squares import Squares, per_length
from rayinfluence.model.batches import Batch
from rayinfluence.model.rows import Rows

#: By id of a sequence: scores [C, T].
PairScores = dict[int, NDArray[np.float64]]


@dataclass(frozen=True)
class Asked:
    """What is asked by one method.

    Attributes:
        solver: by the name of a module; one exists at a time.
        normalised: whether scores are of gradients of length 1.
        ids: of the sequences that are scored.
    """

    solver: Callable[[str], Solver]
    normalised: bool
    ids: NDArray[np.int64]


def pair_scores(
    replica: Replica,
    query: EncodedQuery,
    ends: tuple[int, ...],
    asked: Sequence[Asked],
    table: pa.Table,
    advance: Callable[[int], None] = lambda tokens: None,
) -> list[PairScores]:
    """Scores by parts of a query's completion and tokens of rows.

    Args:
        replica: the model.
        query: that has parts.
        ends: of those.
        asked: by method.
        table: rows that some method asks for, all of which have been scored before.
        advance: told of the tokens of each batch.

    Returns:
        By method, of each of its sequences [C, T].

    Raises:
        NumericsError: a sequence cannot be scored any more, or a score is not finite.
    """
    work = _Work(replica, query, ends, asked)
    held = Held(replica)
    changed: Quarantine = {}
    for batch in replica.batches(table, changed):
        done = replica.run(batch, own_labels, held.hold, changed)
        if done is not None:
            advance(done.n_tokens)
            if held.add(done):
                work.score(*held.take())
    work.score(*held.take())
    for of_method in work.found:
        for sequence_id, scores_CT in of_method.items():
            if not np.isfinite(scores_CT).all():
                changed[sequence_id] = "its scores by pairs of tokens are not finite"
    if changed:
        raise NumericsError(
            f"sequence {min(changed)} was scored for query {query.query.query_id!r}, and now "
            f"{changed[min(changed)]}. Set `scan.pair_scores: 0` to go without them."
        )
    return work.found


class _Work:
    """Scores windows into what was found so far."""

    def __init__(
        self,
        replica: Replica,
        query: EncodedQuery,
        ends: tuple[int, ...],
        asked: Sequence[Asked],
    ) -> None:
        self._replica, self._query, self._ends, self._asked = replica, query, ends, asked
        self._dtype = accumulation_dtype(replica.numerics.torch_dtype)
        self._normalised = any(one.normalised for one in asked)
        self._per_norm = 1.0
        if self._normalised:
            self._per_norm = per_norm(query_gradient(replica, query), replica.shapes)
        #: By method.
        self.found: list[PairScores] = [{} for _ in asked]

    def score(self, batches: Sequence[Batch], parts: Mapping[str, Sequence[Part]]) -> None:
        """Add the scores of a window, whose rows are in no other."""
        if not batches:
            return
        chosen_M = [_chosen(batches, one.ids) for one in self._asked]
        sums_M = [
            torch.zeros(len(self._ends), sum(length for *_, length in chosen), dtype=torch.float64)
            for chosen in chosen_M
        ]

        def consume(name: str, some: range, query_rows: Rows) -> None:
            if name in parts:
                seen = dict(parts[name])
                for one, chosen, sums_CK in zip(self._asked, chosen_M, sums_M, strict=True):
                    if chosen:
                        here = ChosenRows.of(chosen, seen, joined=True)
                        self._add(one.solver(name), name, some, query_rows, here, sums_CK)

        part_gradients(self._replica, self._query, self._ends, consume)
        scales_B = self._scales(batches, parts) if self._normalised else []
        for one, chosen, sums_CK, found in zip(
            self._asked, chosen_M, sums_M, self.found, strict=True
        ):
            start = 0
            for batch, row, length in chosen:
                scores_CT = sums_CK[:, start : start + length].numpy()
                scale = scales_B[batch][row] * self._per_norm if one.normalised else 1.0
                found[int(batches[batch].sequence_ids[row])] = scores_CT * scale
                start += length

    def _add(
        self,
        solver: Solver,
        name: str,
        some: range,
        query_rows: Rows,
        here: ChosenRows,
        sums_CK: Tensor,
    ) -> None:
        """Add what a module has to do with it, of some parts."""
        inverse, d_in = solver.inverse(), self._replica.shapes[name].d_in
        for row, part in enumerate(some):
            inputs = query_rows.inputs_BRI[row].to(self._dtype)
            grads = query_rows.grads_BRO[row].to(self._dtype)
            matrix_OJ = inverse.of_tokens(inputs, grads)["dense"]
            sums_CK[part] += here.scores(DenseQueries(matrix_OJ[None], d_in)).cpu()

    def _scales(
        self, batches: Sequence[Batch], parts: Mapping[str, Sequence[Part]]
    ) -> list[NDArray[np.float64]]:
        """One over the norms of the gradients of all sequences of a window, by batch."""
        squares_B = [np.zeros(len(batch.lengths_B)) for batch in batches]
        for name, here in parts.items():
            seen = [(rows.inputs_BRI, rows.grads_BRO) for _, rows in here]
            squares = Squares(seen, self._replica.shapes[name].bias)
            Contraction().scores(seen, [], squares)
            start = 0
            for batch, rows in here:
                squares_B[batch] += squares.sums_n[start : start + len(rows)].cpu().numpy()
                start += len(rows)
        return [per_length(one) for one in squares_B]


def _chosen(batches: Sequence[Batch], ids: NDArray[np.int64]) -> list[Chosen]:
    """Some sequences of a window."""
    return [
        (place, row, int(batch.lengths_B[row]))
        for place, batch in enumerate(batches)
        for row in np.flatnonzero(np.isin(batch.sequence_ids, ids)).tolist()
    ]
