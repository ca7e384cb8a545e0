"""The second pass: what a scan found is scored again at full rank, by layer and by token.

All queries of a block and all methods share one forward and backward pass of each sequence; a score
is the inner product of a query's gradient with the sequence's own, made once for all of them.

B sequence in batch, N row, n row in window, T token, Q query of the block, P pair of row and query,
M module, O and I widths of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.curvature.products import accumulation_dtype
from rayinfluence.curvature.solver import Solver
from rayinfluence.dataflow.compute.chosen_rows import Chosen, ChosenRows
from rayinfluence.dataflow.compute.replica import Quarantine, Replica, own_labels
from rayinfluence.dataflow.compute.scoring import Held, Part, query_gradient
from rayinfluence.dataflow.compute.unit_gradients import unit_gradient
from rayinfluence.errors import NumericsError
from rayinfluence.influence.bank import DenseQueries, Itself, QueryBank
from rayinfluence.influence.contraction import Contraction
from rayinfluence.influence.squares import Squares, per_length
from rayinfluence.model.batches import Batch
from rayinfluence.model.modules import ModuleShape

#: Bytes of whole gradients that are held at once.
_WHOLE_BYTES = {"cpu": 1 << 30, "cuda": 1 << 34}
_NUMBER = 4


@dataclass(frozen=True)
class Asked:
    """What is asked of one method.

    Attributes:
        whole: its queries at full rank.
        cut: the same as the scan had them, or None where that is whole.
        wanted_NQ: which rows are scored for which queries.
        by_token_NQ: which of those by token, too.
    """

    whole: QueryBank
    cut: QueryBank | None
    wanted_NQ: NDArray[np.bool_]
    by_token_NQ: NDArray[np.bool_]

    def of_rows(self, rows_N: NDArray[np.bool_]) -> Asked:
        """The same of some rows."""
        wanted_NQ, by_token_NQ = self.wanted_NQ[rows_N], self.by_token_NQ[rows_N]
        return Asked(self.whole, self.cut, wanted_NQ, by_token_NQ)


@dataclass
class Rescored:
    """The pairs of one method, in the order of rows and then queries.

    Attributes:
        rows_P, queries_P: their places.
        layer_scores_PM: by module, at full rank; a pair's score is their sum. A method that has
            no scores by module has the score alone, as if all were one.
        scanned_P: what the scan's queries give in this pass.
        token_scores: by place among the pairs, of those that were asked for by token.
        influences: by place among the pairs, output-token, input-token and embedding influences
            [3, T] of those that were asked for them.
    """

    rows_P: NDArray[np.int64]
    queries_P: NDArray[np.int64]
    layer_scores_PM: NDArray[np.float64]
    scanned_P: NDArray[np.float64]
    token_scores: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    influences: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def nothing_yet(cls, asked: Asked, n_modules: int) -> Rescored:
        """Pairs whose scores are zero."""
        rows_P, queries_P = np.nonzero(asked.wanted_NQ)
        zeros = np.zeros(len(rows_P))
        return cls(rows_P, queries_P, np.zeros((len(rows_P), n_modules)), zeros)

    @classmethod
    def none(cls, n_modules: int) -> Rescored:
        """No pairs."""
        places, scores = np.zeros(0, dtype=np.int64), np.zeros(0)
        return cls(places, places, np.zeros((0, n_modules)), scores)

    def scale(self, factors_N: NDArray[np.float64]) -> None:
        """Multiply what was found of each row with a number."""
        factors_P = factors_N[self.rows_P]
        self.layer_scores_PM *= factors_P[:, None]
        self.scanned_P *= factors_P
        for place, scores in self.token_scores.items():
            self.token_scores[place] = scores * factors_P[place]


def queries_at_once(shapes: Mapping[str, ModuleShape], device: str, n_methods: int) -> int:
    """Queries of a block: as many as have their whole gradients in a bounded memory."""
    numbers = sum(shape.d_out * shape.columns for shape in shapes.values())
    return max(1, _WHOLE_BYTES[device] // (_NUMBER * numbers * n_methods))


def whole_banks(
    replica: Replica,
    solvers: Sequence[Callable[[str], Solver]],
    queries: Sequence[EncodedQuery],
    normalised: Sequence[bool],
) -> list[QueryBank]:
    """(G + lambda I)^-1 grad f_q of all queries by each method, at full rank.

    Args:
        replica: the model.
        solvers: of each method, by the name of a module; one exists at a time.
        queries: of a block.
        normalised: which methods are of gradients of length 1.
    """
    dtype = accumulation_dtype(replica.numerics.torch_dtype)
    found = [query_gradient(replica, query) for query in queries]
    units = [unit_gradient(one, replica.shapes) for one in found] if any(normalised) else []
    banks: list[dict[str, DenseQueries]] = [{} for _ in solvers]
    for name, shape in replica.shapes.items():
        for solver, bank, of_unit in zip(solvers, banks, normalised, strict=True):
            inverse = solver(name).inverse()
            there = replica.devices[name]
            matrix_QOJ = torch.empty(
                len(queries), shape.d_out, shape.columns, dtype=dtype, device=there
            )
            for place, one in enumerate(units if of_unit else found):
                matrix_QOJ[place] = inverse.of_tokens(*one.tokens[name])["dense"]
            bank[name] = DenseQueries(matrix_QOJ, shape.d_in)
    digests = [query.digest for query in queries]
    return [
        QueryBank(digests, bank, of_unit) for bank, of_unit in zip(banks, normalised, strict=True)
    ]


def rescore(
    replica: Replica,
    asked: Sequence[Asked],
    table: pa.Table,
    advance: Callable[[int], None] = lambda tokens: None,
) -> list[Rescored]:
    """Score rows that have been scored before, as :func:`score_pairs` does.

    Raises:
        NumericsError: a sequence that was scored cannot be scored any more.
    """
    found, changed = score_pairs(replica, asked, table, advance)
    if changed:
        raise NumericsError(
            f"sequence {min(changed)} was scored, and now {changed[min(changed)]}: the model "
            "or the machine has changed since the scan. Run `rayinfluence clean --stage scan`."
        )
    return found


def score_pairs(
    replica: Replica,
    asked: Sequence[Asked],
    table: pa.Table,
    advance: Callable[[int], None] = lambda tokens: None,
) -> tuple[list[Rescored], Quarantine]:
    """Score rows for the queries that want them.

    Args:
        replica: the model.
        asked: by method.
        table: rows in the order of their ids.
        advance: told of the tokens of each batch.

    Returns:
        What is found by each method, and the rows that cannot be scored, with the reason. Where
        there is one, what is found is not whole.
    """
    ids = table["sequence_id"].to_numpy()
    found = [Rescored.nothing_yet(one, len(replica.modules)) for one in asked]
    work = _Work(replica, asked, found)
    held = Held(replica)
    changed: Quarantine = {}
    for batch in replica.batches(table, changed):
        done = replica.run(batch, own_labels, held.hold, changed)
        if changed or done is None:
            break
        advance(int(batch.lengths_B.sum()))
        if held.add(batch):
            work.score(*held.take(), ids)
    if not changed:
        work.score(*held.take(), ids)
    for one, of_method in zip(found, asked, strict=True):
        if of_method.whole.normalised:
            one.scale(per_length(work.squares_N))
        bad = ~np.isfinite(one.layer_scores_PM.sum(axis=1))
        changed |= dict.fromkeys(ids[one.rows_P[bad]].tolist(), "its influence is not finite")
    return found, changed


class _Work:
    """Scores windows into what was found so far."""

    def __init__(self, replica: Replica, asked: Sequence[Asked], found: Sequence[Rescored]) -> None:
        self._modules, self._shapes = list(replica.modules), replica.shapes
        self._device = replica.device
        self._normalised = any(one.whole.normalised for one in asked)
        #: |D_z|^2 of the rows, if it is needed.
        self.squares_N = np.zeros(max(len(one.wanted_NQ) for one in asked))
        self._asked, self._found = asked, found
        self._banks = [bank for one in asked for bank in (one.whole, one.cut) if bank is not None]
        # Gradients of sequences are not rounded to what the model computes in.
        self._contraction = Contraction(accumulation_dtype(replica.numerics.torch_dtype))
        self._places: list[NDArray[np.int64]] = []
        for one in asked:
            places_NQ = np.full(one.wanted_NQ.shape, -1, dtype=np.int64)
            places_NQ[one.wanted_NQ] = np.arange(one.wanted_NQ.sum())
            self._places.append(places_NQ)

    def score(
        self,
        batches: Sequence[Batch],
        parts: Mapping[str, Sequence[Part]],
        ids: NDArray[np.int64],
    ) -> None:
        """Add the scores of a window."""
        if not batches:
            return
        rows = [np.searchsorted(ids, batch.sequence_ids) for batch in batches]
        picks = [self._picks(index, batches, rows) for index in range(len(self._asked))]
        by_token: list[list[Tensor]] = [[] for _ in self._asked]
        for place, name in enumerate(self._modules):
            if name not in parts:
                continue
            here = parts[name]
            rows_n = np.concatenate([rows[batch] for batch, _ in here])
            parts_here = [(seen.inputs_BRI, seen.grads_BRO) for _, seen in here]
            squares = Squares(parts_here, self._shapes[name].bias) if self._normalised else None
            scores = iter(
                self._contraction.scores(
                    parts_here, [bank.modules[name] for bank in self._banks], squares
                )
            )
            if squares is not None:
                self.squares_N[rows_n] += squares.sums_n.cpu().numpy()
            for index, one in enumerate(self._asked):
                found, places_nQ = self._found[index], self._places[index][rows_n]
                wanted = places_nQ >= 0
                whole_nQ = next(scores).double().cpu().numpy()
                found.layer_scores_PM[places_nQ[wanted], place] = whole_nQ[wanted]
                cut_nQ = whole_nQ if one.cut is None else next(scores).double().cpu().numpy()
                found.scanned_P[places_nQ[wanted]] += cut_nQ[wanted]
                for query, chosen in picks[index].items():
                    of_query = one.whole.modules[name].one(query)
                    rows_K = ChosenRows.of(chosen, dict(here), not isinstance(of_query, Itself))
                    found_K = rows_K.scores(of_query)
                    by_token[index].append(found_K.to(self._device))
        for index, chosen_by_query in enumerate(picks):
            self._keep(index, chosen_by_query, by_token[index], rows)

    def _picks(
        self, index: int, batches: Sequence[Batch], rows: Sequence[NDArray[np.int64]]
    ) -> dict[int, list[Chosen]]:
        """By query, the rows of the window that are scored by token: batch, row in it, length."""
        wanted_NQ = self._asked[index].by_token_NQ
        picks: dict[int, list[Chosen]] = {}
        for place, (batch, rows_B) in enumerate(zip(batches, rows, strict=True)):
            for row, query in zip(*np.nonzero(wanted_NQ[rows_B]), strict=True):
                length = int(batch.lengths_B[row])
                picks.setdefault(int(query), []).append((place, int(row), length))
        return picks

    def _keep(
        self,
        index: int,
        picks: Mapping[int, Sequence[Chosen]],
        by_module: Sequence[Tensor],
        rows: Sequence[NDArray[np.int64]],
    ) -> None:
        """Sum token scores over modules and put each pair's where it belongs."""
        for number, (query, chosen) in enumerate(picks.items()):
            # Modules follow each other, and in each of them the queries.
            total = np.zeros(sum(length for *_, length in chosen))
            # There are none where all are experts that no sequence of the window chose.
            if parts := by_module[number :: len(picks)]:
                total = torch.stack(list(parts)).sum(dim=0).cpu().numpy()
            start = 0
            for batch, row, length in chosen:
                place = int(self._places[index][rows[batch][row], query])
                self._found[index].token_scores[place] = total[start : start + length]
                start += length
