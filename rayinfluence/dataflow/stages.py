"""The stages as pure functions of (replica, rows, operands): no Ray, no files.

Same inputs, same bits.

B sequence in batch, T token, O and J widths of a module, Q query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.curvature.products import accumulation_dtype, operand_dtype
from rayinfluence.dataflow.grouping import group_values
from rayinfluence.dataflow.partial import Partial
from rayinfluence.dataflow.replica import Quarantine, Replica, own_labels
from rayinfluence.errors import NumericsError
from rayinfluence.influence.bank import DenseQueries, ModuleQueries, QueryBank
from rayinfluence.influence.contraction import Contraction
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.tails import Tails
from rayinfluence.influence.topk import TopK
from rayinfluence.methods.preconditioner import Preconditioner
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.capture import backward
from rayinfluence.model.head import forward_logits, target_logits
from rayinfluence.model.losses import log_probabilities
from rayinfluence.storage.digest import digest_bytes

Advance = Callable[[int], None]
#: Inputs and output gradients that wait to be scored together.
_WINDOW_BYTES = {"cpu": 1 << 30, "cuda": 1 << 33}


@dataclass(frozen=True)
class QueryGradient:
    """grad f_q by module, and what the model itself thinks of the completion.

    Attributes:
        tokens: inputs [T, I] and output gradients [T, O] of every module that the query reaches,
            in the dtype of sums; its gradient is their product.
        log_probabilities: of the completion's tokens, in nats.
        ranks: of the completion's tokens among all tokens, 1 for the model's first choice.
    """

    tokens: dict[str, tuple[Tensor, Tensor]]
    log_probabilities: list[float]
    ranks: list[int]

    @property
    def log_probability(self) -> float:
        """Log p(completion | prompt), in nats."""
        return float(np.sum(self.log_probabilities))


def query_gradient(replica: Replica, query: EncodedQuery) -> QueryGradient:
    """The gradient of log p(completion | prompt) in every tracked weight.

    Raises:
        NumericsError: the query's log-probability or gradient is not finite.
    """
    batch = make_batch([np.array(query.tokens)], [0], replica.device, query.first_target)
    dtype = accumulation_dtype(replica.numerics.torch_dtype)
    tokens: dict[str, tuple[Tensor, Tensor]] = {}
    values: list[Tensor] = []
    ranks: list[Tensor] = []

    def objective() -> Tensor:
        logits = target_logits(forward_logits(replica.model, batch.tokens_BT), batch)
        labels = batch.own_labels_N
        values.append(log_probabilities(logits, labels))
        chosen = logits.detach().gather(1, labels[:, None])
        ranks.append(1 + (logits.detach() > chosen).sum(dim=1))
        return values[0].sum()

    def consume(name: str, inputs: Tensor, grads: Tensor) -> None:
        tokens[name] = inputs[0].to(dtype), grads[0].to(dtype)

    backward(replica.modules, objective, consume)
    for name, shape in replica.shapes.items():
        # A module that the query does not reach has no part in it.
        if name not in tokens:
            nothing = torch.zeros(1, shape.d_in + shape.d_out, dtype=dtype, device=replica.device)
            tokens[name] = nothing[:, : shape.d_in], nothing[:, shape.d_in :]
    log_ps = [float(value) for value in values[0].detach()]
    if not np.isfinite(log_ps).all() or not all(
        bool(torch.isfinite(side).all()) for sides in tokens.values() for side in sides
    ):
        raise NumericsError(
            f"query {query.query.query_id!r}: its log-probability or gradient is not finite; try "
            "`dtype: float32`, "
            "or another query."
        )
    return QueryGradient(tokens, log_ps, [int(rank) for rank in ranks[0]])


class Window:
    """Holds what the modules of some batches saw, and scores them together.

    Args:
        replica: the model.
        banks: to score with.
    """

    def __init__(self, replica: Replica, banks: Sequence[QueryBank]) -> None:
        self._shapes = replica.shapes
        self._banks = banks
        self._contraction = Contraction()
        # A function of shapes alone, so that a split is always cut into the same windows.
        widths = sum(
            shape.d_out + (shape.d_in if shape.source == shape.name else 0)
            for shape in replica.shapes.values()
        )
        self._operand = operand_dtype(replica.numerics.torch_dtype, replica.device)
        n_bytes = widths * self._operand.itemsize
        self._capacity = _WINDOW_BYTES[replica.device.type] // n_bytes
        self._batches: list[Batch] = []
        self._n_tokens = 0
        self._parts: dict[str, list[tuple[int, Tensor, Tensor]]] = {}

    def hold(self, _batch: Batch, name: str, inputs: Tensor, grads: Tensor) -> None:
        """Keep a module's tensors until the window is scored."""
        part = len(self._batches), inputs.to(self._operand), grads.to(self._operand)
        self._parts.setdefault(name, []).append(part)

    def add(self, batch: Batch) -> list[tuple[Batch, list[NDArray[np.float64]]]]:
        """Take note of a batch that has been held; scores, if the window is full."""
        self._batches.append(batch)
        self._n_tokens += batch.tokens_BT.numel()
        full = self._n_tokens + batch.tokens_BT.numel() > self._capacity
        return self.scores() if full else []

    def scores(self) -> list[tuple[Batch, list[NDArray[np.float64]]]]:
        """The batches of the window, each with its scores [B, Q] for every bank; empties it."""
        if not self._batches:
            return []
        ends = np.cumsum([len(batch.lengths_B) for batch in self._batches])
        device = self._batches[0].tokens_BT.device
        totals = [
            torch.zeros(int(ends[-1]), len(bank), dtype=torch.float64, device=device)
            for bank in self._banks
        ]
        for name in [name for name in self._shapes if name in self._parts]:
            parts = self._parts.pop(name)
            found = self._contraction.scores(
                [(inputs, grads) for _, inputs, grads in parts],
                [bank.modules[name] for bank in self._banks],
            )
            # A module that a batch does not reach adds nothing to its scores.
            rows = torch.cat(
                [torch.arange(int(ends[i]) - len(a), int(ends[i])) for i, a, _ in parts]
            )
            for total, part in zip(totals, found, strict=True):
                total.index_add_(0, rows.to(device), part.double())
        whole = [total.cpu().numpy() for total in totals]
        scored = [
            (batch, [part[end - len(batch.lengths_B) : end] for part in whole])
            for batch, end in zip(self._batches, ends, strict=True)
        ]
        self._batches, self._n_tokens = [], 0
        return scored


@dataclass(frozen=True)
class Scored:
    """The scores [N, Q] of a split's sequences by a bank.

    ``n_tokens`` are of the sequences that were scored; the quarantined ones were not.
    """

    ids_N: NDArray[np.int64]
    scores_NQ: NDArray[np.float64]
    n_tokens: int
    quarantine: Quarantine

    def partial(self, table: pa.Table, top: int, group_by: Sequence[str]) -> Partial:
        """The partial, of which the statistics are over all scores.

        Args:
            table: the split's rows.
            top: survivors of each query and direction.
            group_by: metadata keys.
        """
        return Partial(
            proponents=TopK.of(self.scores_NQ, self.ids_N, top),
            opponents=TopK.of(-self.scores_NQ, self.ids_N, top),
            groups=GroupSums.of(self.scores_NQ, group_values(table, self.ids_N, group_by)),
            tails=Tails.of(self.scores_NQ),
            n_sequences=len(self.ids_N),
            n_tokens=self.n_tokens,
            quarantine=dict(sorted(self.quarantine.items())),
        )


def score_split(
    replica: Replica,
    banks: Sequence[QueryBank],
    table: pa.Table,
    advance: Advance = lambda tokens: None,
) -> list[Scored]:
    """Score a split against every query of every bank, in one forward and backward pass.

    What a bank yields does not depend on the banks beside it. ``advance`` is told of the tokens of
    each batch.
    """
    quarantine: Quarantine = {}
    found: list[list[tuple[Batch, NDArray[np.float64]]]] = [[] for _ in banks]
    window = Window(replica, banks)

    def scored() -> Iterator[tuple[Batch, list[NDArray[np.float64]]]]:
        for batch in replica.batches(table, quarantine):
            done = replica.run(batch, own_labels, window.hold, quarantine)
            advance(int(batch.lengths_B.sum()))
            if done is not None:
                yield from window.add(done)
        yield from window.scores()

    for batch, parts in scored():
        for of_bank, part_BQ in zip(found, parts, strict=True):
            of_bank.append((batch, part_BQ))
    return [
        _finite(of_bank, len(bank), quarantine) for bank, of_bank in zip(banks, found, strict=True)
    ]


def _finite(
    found: Sequence[tuple[Batch, NDArray[np.float64]]], n_queries: int, quarantine: Quarantine
) -> Scored:
    """The scores of sequences whose scores by a bank are all finite."""
    ids, scores, n_tokens = [np.zeros(0, np.int64)], [np.zeros((0, n_queries))], 0
    bad: Quarantine = {}
    for batch, part_BQ in found:
        finite_B = np.isfinite(part_BQ).all(axis=1)
        bad |= {int(i): "its influence is not finite" for i in batch.sequence_ids[~finite_B]}
        ids.append(batch.sequence_ids[finite_B])
        scores.append(part_BQ[finite_B])
        n_tokens += int(batch.lengths_B[finite_B].sum())
    return Scored(np.concatenate(ids), np.concatenate(scores), n_tokens, quarantine | bad)


def whole_gradient(
    replica: Replica, operator: Preconditioner, query: QueryGradient
) -> dict[str, DenseQueries]:
    """(G + lambda I)^-1 grad f_q by module, at full rank and in the dtype of sums."""
    dtype = accumulation_dtype(replica.numerics.torch_dtype)
    whole = {}
    for name, (inputs, grads) in query.tokens.items():
        matrix_OJ = operator.solve_tokens(name, inputs, grads, None, 0)["dense"]
        whole[name] = DenseQueries(matrix_OJ[None].to(dtype), replica.shapes[name].d_in)
    return whole


@dataclass(frozen=True)
class Explanation:
    """The score of a sequence for one query, and its parts by token and by layer.

    ``score`` is the sum of ``layer_scores``, and of ``token_scores`` up to rounding; ``scanned`` is
    what the scan's query gradient, cut to its rank, gives in this pass.
    """

    score: float
    scanned: float
    token_scores: NDArray[np.float64]
    layer_scores: dict[str, float]


def explain(
    replica: Replica,
    query: Mapping[str, ModuleQueries],
    cut: Mapping[str, ModuleQueries] | None,
    table: pa.Table,
    advance: Advance = lambda tokens: None,
) -> dict[int, Explanation]:
    """Score every row of a table for one query, by token and by layer.

    Args:
        replica: the model.
        query: its preconditioned gradient in each module.
        cut: the same as the scan has it; None where that is whole.
        table: rows of sequences, all of which have been scored before.
        advance: told of the tokens of each batch.

    Returns:
        By sequence id.

    Raises:
        NumericsError: a sequence that was scored cannot be scored any more.
    """
    found: dict[int, Explanation] = {}
    changed: Quarantine = {}
    for batch in replica.batches(table, changed):
        width = batch.tokens_BT.shape[1]
        parts_BT: dict[str, Tensor] = {}
        scanned_B = torch.zeros(len(batch.lengths_B), dtype=torch.float64, device=replica.device)

        def step(
            _batch: Batch,
            name: str,
            inputs: Tensor,
            grads: Tensor,
            width: int = width,
            parts_BT: dict[str, Tensor] = parts_BT,
            scanned_B: Tensor = scanned_B,
        ) -> None:
            scores_BT = query[name].token_scores(inputs, grads)[:, :, 0].double()
            if cut is not None:
                cut_BT = cut[name].token_scores(inputs, grads)[:, :, 0]
                scanned_B += cut_BT.sum(dim=1, dtype=torch.float64)
            # The calls of a module that is called several times stand side by side.
            parts_BT[name] = scores_BT.unflatten(1, (-1, width)).sum(dim=1)

        replica.run(batch, own_labels, step, changed)
        if changed:
            break
        advance(int(batch.lengths_B.sum()))
        names = [name for name in replica.modules if name in parts_BT]
        parts_MBT = torch.stack([parts_BT[name] for name in names])
        tokens_BT = parts_MBT.sum(dim=0).cpu().numpy()
        layers_BM = parts_MBT.sum(dim=2).T.cpu().numpy()
        for row, (sequence_id, length) in enumerate(
            zip(batch.sequence_ids.tolist(), batch.lengths_B.tolist(), strict=True)
        ):
            by_layer = dict(zip(names, layers_BM[row].tolist(), strict=True))
            score = float(layers_BM[row].sum())
            if not np.isfinite(score):
                changed[sequence_id] = "its influence is not finite"
            scanned = score if cut is None else float(scanned_B[row])
            found[sequence_id] = Explanation(score, scanned, tokens_BT[row, :length], by_layer)
    if changed:
        raise NumericsError(
            f"sequence {min(changed)} was scored, and now {changed[min(changed)]}: the model "
            "or the machine has changed since the scan. Run `rayinfluence clean --stage scan`."
        )
    return found


def content_digest(tokens: np.ndarray) -> str:
    """The digest of a sequence's token ids: equal text, equal digest."""
    return digest_bytes(np.ascontiguousarray(tokens, dtype="<i4").tobytes())


def rows_by_id(table: pa.Table) -> dict[int, dict[str, Any]]:
    """The rows of a table by sequence id, with their tokens as an array."""
    light = table.drop_columns(["tokens"]).to_pylist()
    return {
        row["sequence_id"]: {**row, "tokens": tokens}
        for row, tokens in zip(light, sequences_of(table), strict=True)
    }
