"""The stages as pure functions of (replica, rows, operands): no Ray, no files.

Same inputs, same bits.

B sequence in batch, T token, O and J widths of a module, Q query.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.curvature.sums import CovarianceSums, accumulation_dtype, rotated_gradients
from rayinfluence.dataflow.partial import Partial
from rayinfluence.dataflow.replica import Labels, Quarantine, Replica, Step, own_labels
from rayinfluence.errors import NumericsError
from rayinfluence.influence.bank import QueryBank
from rayinfluence.influence.groups import GroupSums
from rayinfluence.influence.topk import TopK
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.capture import backward
from rayinfluence.model.losses import (
    forward_logits,
    log_probabilities,
    sample_labels,
    target_logits,
    uniforms,
)
from rayinfluence.storage.digest import digest_bytes

Advance = Callable[[int], None]
_Sums = TypeVar("_Sums")


@dataclass
class Fold:
    """Sums over the sequences of a lane, and how many they are."""

    tensors: dict[str, Tensor]
    n_sequences: int = 0
    n_tokens: int = 0
    quarantine: Quarantine = field(default_factory=dict)


def fitting_labels(kind: str, seed: int) -> Labels:
    """Labels for curvature: ``sampled`` (true Fisher) or the ``data``'s own (empirical)."""

    def sampled(batch: Batch, logits: Tensor) -> Tensor:
        draws = uniforms(seed, batch.sequence_ids.tolist(), batch.lengths_B.tolist())
        return sample_labels(logits, draws.to(logits.device))

    return sampled if kind == "sampled" else own_labels


def fold_covariance(
    replica: Replica, read: Callable[[], Iterable[pa.Table]], labels: Labels, advance: Advance
) -> Fold:
    """Sum a a^T, a and g g^T of every tracked module over the rows of a lane.

    Returns:
        Tensors ``<module>/inputs`` [I, I], ``/inputs_sum`` [I], ``/outputs`` [O, O], ``/rows`` [].
    """
    dtype = accumulation_dtype(replica.numerics.torch_dtype)

    def start() -> tuple[dict[str, CovarianceSums], Step]:
        sums = {
            name: CovarianceSums.zeros(shape.d_in, shape.d_out, dtype, replica.device)
            for name, shape in replica.shapes.items()
        }

        def step(batch: Batch, name: str, inputs: Tensor, grads: Tensor) -> None:
            sums[name].add(inputs, grads, batch.mask_BT)

        return sums, step

    sums, fold = _fold(replica, read, labels, advance, start)
    for name, module in sums.items():
        fold.tensors |= {
            f"{name}/inputs": module.inputs_II,
            f"{name}/inputs_sum": module.inputs_I,
            f"{name}/outputs": module.grads_OO,
            f"{name}/rows": module.n_rows,
        }
    return fold


def fold_moments(
    replica: Replica,
    read: Callable[[], Iterable[pa.Table]],
    labels: Labels,
    bases: Mapping[str, Tensor],
    advance: Advance,
) -> Fold:
    """Sum (Q_S^T D Q_A)^2 of every tracked module over the sequences of a lane.

    Args:
        replica: the model.
        read: gives the lane's rows, each time it is called.
        labels: the same as for the covariances.
        bases: ``<module>/inputs_basis`` [J, J] and ``<module>/outputs_basis`` [O, O].
        advance: told the number of tokens after each batch.

    Returns:
        Tensors ``<module>`` [O, J].
    """
    dtype = accumulation_dtype(replica.numerics.torch_dtype)

    def start() -> tuple[dict[str, Tensor], Step]:
        sums = {
            name: torch.zeros(shape.d_out, shape.columns, dtype=dtype, device=replica.device)
            for name, shape in replica.shapes.items()
        }

        def step(batch: Batch, name: str, inputs: Tensor, grads: Tensor) -> None:
            basis_A, basis_S = bases[f"{name}/inputs_basis"], bases[f"{name}/outputs_basis"]
            for rotated_OJ in rotated_gradients(inputs, grads, basis_A, basis_S):
                sums[name].addcmul_(rotated_OJ, rotated_OJ)

        return sums, step

    sums, fold = _fold(replica, read, labels, advance, start)
    fold.tensors = sums
    return fold


def _fold(
    replica: Replica,
    read: Callable[[], Iterable[pa.Table]],
    labels: Labels,
    advance: Advance,
    start: Callable[[], tuple[_Sums, Step]],
) -> tuple[_Sums, Fold]:
    """Fold all batches of a lane; begin again without the sequences whose gradients are not finite.

    Such a sequence is found only after it was added, and cannot be taken out of a sum that it made
    NaN. One pass finds all that a lane has, so a lane is read twice at the most.
    """
    quarantine: Quarantine = {}
    while True:
        sums, step = start()
        fold = Fold({}, quarantine=quarantine)
        not_finite: Quarantine = {}
        for table in read():
            for batch in replica.batches(table, quarantine):
                finite: list[Tensor] = []
                done = replica.run(batch, labels, _checked(step, finite), quarantine)
                advance(int(batch.lengths_B.sum()))
                if done is None:
                    continue
                fold.n_sequences += len(done.sequence_ids)
                fold.n_tokens += int(done.lengths_B.sum())
                bad_B = ~torch.stack(finite).all(dim=0).cpu().numpy()
                for sequence_id in done.sequence_ids[bad_B]:
                    not_finite[int(sequence_id)] = "its gradient is not finite"
        if not not_finite:
            return sums, fold
        quarantine |= not_finite


def _checked(step: Step, finite: list[Tensor]) -> Step:
    """A step that also notes, module by module, which sequences [B] have finite tensors."""

    def checked(batch: Batch, name: str, inputs: Tensor, grads: Tensor) -> None:
        finite.append(torch.isfinite(inputs.sum((1, 2)) + grads.sum((1, 2))))
        step(batch, name, inputs, grads)

    return checked


@dataclass(frozen=True)
class QueryGradient:
    """grad f_q by module [O, J], and what the model itself thinks of the completion."""

    gradients: dict[str, Tensor]
    log_probabilities: list[float]
    ranks: list[int]

    @property
    def log_probability(self) -> float:
        """Log p(completion | prompt), in nats."""
        return float(np.sum(self.log_probabilities))


def query_gradient(replica: Replica, query: EncodedQuery) -> QueryGradient:
    """The gradient of log p(completion | prompt) in every tracked weight (bias: LAST column).

    Raises:
        NumericsError: the query's log-probability or gradient is not finite.
    """
    batch = make_batch([np.array(query.tokens)], [0], replica.device)
    targets = batch.targets_BT
    targets[:, : query.first_target] = False
    gradients: dict[str, Tensor] = {}
    values: list[Tensor] = []
    ranks: list[Tensor] = []

    def objective() -> Tensor:
        logits = target_logits(forward_logits(replica.model, batch.tokens_BT), targets)
        labels = batch.tokens_BT[:, 1:][targets[:, 1:]]
        values.append(log_probabilities(logits, labels))
        chosen = logits.detach().gather(1, labels[:, None])
        ranks.append(1 + (logits.detach() > chosen).sum(dim=1))
        return values[0].sum()

    def consume(name: str, inputs: Tensor, grads: Tensor) -> None:
        gradient = grads[0].T @ inputs[0]
        if replica.shapes[name].bias:
            gradient = torch.cat([gradient, grads[0].sum(dim=0)[:, None]], dim=1)
        gradients[name] = gradient.to(accumulation_dtype(gradient.dtype))

    backward(replica.modules, objective, consume)
    for name, shape in replica.shapes.items():
        # A module that the query does not reach has no part in it.
        if name not in gradients:
            dtype = accumulation_dtype(replica.numerics.torch_dtype)
            gradients[name] = torch.zeros(
                shape.d_out, shape.columns, dtype=dtype, device=replica.device
            )
    log_ps = [float(value) for value in values[0].detach()]
    if not np.isfinite(log_ps).all() or not all(
        bool(torch.isfinite(gradient).all()) for gradient in gradients.values()
    ):
        raise NumericsError(
            f"query {query.query.query_id!r}: its log-probability or gradient is not finite; try "
            "`dtype: float32`, "
            "or another query."
        )
    return QueryGradient(gradients, log_ps, [int(rank) for rank in ranks[0]])


def score_split(
    replica: Replica, banks: Sequence[QueryBank], table: pa.Table, top: int, group_by: Sequence[str]
) -> list[Partial]:
    """Score a split against every query of every bank, in one forward and backward pass.

    Returns:
        One partial per bank: its survivors per query, group sums, counts and quarantined sequences.
    """
    quarantine: Quarantine = {}
    ids: list[np.ndarray] = []
    scores: list[list[np.ndarray]] = [[] for _ in banks]
    n_tokens = 0
    for batch in replica.batches(table, quarantine):
        totals: list[Tensor | None] = [None] * len(banks)

        def step(
            _batch: Batch,
            name: str,
            inputs: Tensor,
            grads: Tensor,
            totals: list[Tensor | None] = totals,
        ) -> None:
            for index, bank in enumerate(banks):
                part = bank.modules[name].scores(inputs, grads).double()
                previous = totals[index]
                totals[index] = part if previous is None else previous + part

        done = replica.run(batch, own_labels, step, quarantine)
        if done is None:
            continue
        parts = [np.zeros((0, 0)) if total is None else total.cpu().numpy() for total in totals]
        finite_B = np.all([np.isfinite(part).all(axis=1) for part in parts], axis=0)
        for sequence_id in done.sequence_ids[~finite_B]:
            quarantine[int(sequence_id)] = "its influence is not finite"
        ids.append(done.sequence_ids[finite_B])
        n_tokens += int(done.lengths_B.cpu().numpy()[finite_B].sum())
        for kept, part in zip(scores, parts, strict=True):
            kept.append(part[finite_B])
    all_ids = np.concatenate(ids) if ids else np.zeros(0, np.int64)
    values = _group_values(table, all_ids, group_by)
    partials = []
    for bank, kept in zip(banks, scores, strict=True):
        scores_NQ = np.concatenate(kept) if kept else np.zeros((0, len(bank)))
        partials.append(
            Partial(
                proponents=TopK.of(scores_NQ, all_ids, top),
                opponents=TopK.of(-scores_NQ, all_ids, top),
                groups=GroupSums.of(scores_NQ, values),
                n_sequences=len(all_ids),
                n_tokens=n_tokens,
                quarantine=dict(sorted(quarantine.items())),
            )
        )
    return partials


@dataclass(frozen=True)
class Explanation:
    """Token and layer scores of one (query, sequence) pair.

    Both sum to the score up to rounding.
    """

    query: int
    sequence_id: int
    token_scores: np.ndarray
    layer_scores: dict[str, float]


def explain(
    replica: Replica, bank: QueryBank, table: pa.Table, pairs: Sequence[tuple[int, int]]
) -> list[Explanation]:
    """Attribute the scores of (query, sequence id) pairs to tokens and layers.

    The sequences are rows of the table.
    """
    queries_of: dict[int, list[int]] = {}
    for query, sequence_id in pairs:
        queries_of.setdefault(sequence_id, []).append(query)
    explanations: list[Explanation] = []
    for batch in replica.batches(table, {}, only=set(queries_of)):
        width = batch.tokens_BT.shape[1]
        wanted = [queries_of[sequence_id] for sequence_id in batch.sequence_ids.tolist()]
        tokens: list[Tensor | float] = [0.0] * len(wanted)
        layers: list[dict[str, Tensor]] = [{} for _ in wanted]

        def step(
            _batch: Batch,
            name: str,
            inputs: Tensor,
            grads: Tensor,
            wanted: list[list[int]] = wanted,
            tokens: list[Tensor | float] = tokens,
            layers: list[dict[str, Tensor]] = layers,
            width: int = width,
        ) -> None:
            for row, queries in enumerate(wanted):
                module = bank.modules[name].select(queries)
                scores_TQ = module.token_scores(inputs[row : row + 1], grads[row : row + 1])[0]
                # The calls of a module that is called several times stand side by side.
                scores_TQ = scores_TQ.double().unflatten(0, (-1, width)).sum(dim=0)
                tokens[row] = tokens[row] + scores_TQ
                layers[row][name] = scores_TQ.sum(dim=0)

        changed: Quarantine = {}
        replica.run(batch, own_labels, step, changed)
        if changed:
            raise NumericsError(
                f"sequence {min(changed)} was scored, and now {changed[min(changed)]}: the model "
                "or the machine has changed since the scan. Run `rayinfluence clean --stage scan`."
            )
        for row, (sequence_id, length) in enumerate(
            zip(batch.sequence_ids.tolist(), batch.lengths_B.tolist(), strict=True)
        ):
            scores_TQ = torch.as_tensor(tokens[row])[:length].cpu().numpy()
            for column, query in enumerate(wanted[row]):
                by_layer = {
                    n: float(layers[row][n][column]) for n in replica.modules if n in layers[row]
                }
                explanations.append(Explanation(query, sequence_id, scores_TQ[:, column], by_layer))
    return explanations


def _group_values(
    table: pa.Table, ids: np.ndarray, group_by: Sequence[str]
) -> dict[str, list[str]]:
    """For each metadata key the value of every scored sequence, empty where it has none."""
    rows = {sequence_id: row for row, sequence_id in enumerate(table["sequence_id"].to_pylist())}
    metadata = table["metadata"].to_pylist()
    parsed = (
        [json.loads(metadata[rows[int(sequence_id)]]) for sequence_id in ids] if group_by else []
    )
    return {key: [str(of_row.get(key, "")) for of_row in parsed] for key in group_by}


def content_digest(tokens: np.ndarray) -> str:
    """The digest of a sequence's token ids: equal text, equal digest."""
    return digest_bytes(np.ascontiguousarray(tokens, dtype="<i4").tobytes())


def rows_by_id(table: pa.Table, wanted: set[int]) -> dict[int, dict[str, Any]]:
    """The rows of some sequences, by sequence id, with their tokens as an array."""
    sequences = sequences_of(table)
    light = table.drop_columns(["tokens"]).to_pylist()
    return {
        row["sequence_id"]: {**row, "tokens": tokens}
        for row, tokens in zip(light, sequences, strict=True)
        if row["sequence_id"] in wanted
    }
