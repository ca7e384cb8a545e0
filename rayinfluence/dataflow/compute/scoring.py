"""The stages as pure functions of (replica, rows, operands): no Ray, no files.

Same inputs, same bits.

B sequence in batch, T token, O and J widths of a module, Q query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayinfluence.corpus.queries import EncodedAnswer, EncodedQuery
from rayinfluence.corpus.query_forms import LOG_PROBABILITY
from rayinfluence.corpus.shards import bad_rows, sequences_of
from rayinfluence.curvature.products import accumulation_dtype, operand_dtype
from rayinfluence.dataflow.compute.objectives import (
    MEASUREMENTS,
    Function,
    of_function,
    of_measurements,
)
from rayinfluence.dataflow.compute.quarantine import whole
from rayinfluence.dataflow.compute.replica import Quarantine, Replica, own_labels
from rayinfluence.dataflow.compute.representing import score_representers
from rayinfluence.dataflow.compute.scored import Scored, finite_scores
from rayinfluence.dataflow.compute.texts import TextBank
from rayinfluence.errors import NumericsError
from rayinfluence.influence.bank import QueryBank
from rayinfluence.influence.contraction import Contraction
from rayinfluence.influence.representers import RepresenterBank
from rayinfluence.influence.squares import Squares, per_length
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.capture import backward
from rayinfluence.model.feeding import sides_of
from rayinfluence.model.head import forward_logits, target_logits
from rayinfluence.model.losses import log_probabilities, ranks
from rayinfluence.model.rows import Rows
from rayinfluence.model.targets import Targets
from rayinfluence.model.tied import lookups

Advance = Callable[[int], None]
#: Queries as a scan has them: by gradients, by texts, or by what the last layer sees.
AnyBank = QueryBank | TextBank | RepresenterBank
#: Inputs and output gradients that wait to be scored together.
WINDOW_BYTES = {"cpu": 1 << 28, "cuda": 1 << 33}
#: More sequences than that of a small model only cost memory: at rank 32 queries are rebuilt for a
#: quarter of what their products with so many gradients take.
WINDOW_SEQUENCES = {"cpu": 128, "cuda": 1 << 13}


@dataclass(frozen=True)
class QueryGradient:
    """grad f_q by module, and what the model itself thinks of the completions.

    Attributes:
        tokens: inputs [T, I] and output gradients [T, O] of every module that the query reaches,
            in the dtype of sums, over the tokens of all answers; its gradient is their product.
        log_probabilities: of the completions' tokens, answer after answer, in nats.
        ranks: of those among all tokens, 1 for the model's first choice.
        value: f.
    """

    tokens: dict[str, tuple[Tensor, Tensor]]
    log_probabilities: list[float]
    ranks: list[int]
    value: float

    @property
    def log_probability(self) -> float:
        """Of all of them, in nats."""
        return float(np.sum(self.log_probabilities))


def query_gradient(replica: Replica, query: EncodedQuery) -> QueryGradient:
    """The gradient of f_q, a weighted sum over answers, in every tracked weight.

    A gradient is a sum over rows, so that of a sum over texts has the rows of all of them, each
    text's output gradients times its weight.

    Raises:
        NumericsError: a log-probability of the query, its value or its gradient is not finite.
        ConfigError: its function is not there, or no such function.
    """
    function = None if query.function is None else query.function.load()
    found = [_answer_gradient(replica, query, answer, function) for answer in query.answers]
    dtype = accumulation_dtype(replica.numerics.torch_dtype)
    tokens: dict[str, tuple[Tensor, Tensor]] = {}
    for name in dict.fromkeys([name for one in found for name in one.tokens] + [*replica.shapes]):
        sides = [one.tokens[name] for one in found if name in one.tokens]
        if not sides:
            # A module that the query does not reach has no part in it.
            shape = replica.shapes[name]
            there = replica.devices[name]
            nothing = torch.zeros(1, shape.d_in + shape.d_out, dtype=dtype, device=there)
            sides = [(nothing[:, : shape.d_in], nothing[:, shape.d_in :])]
        inputs, grads = zip(*sides, strict=True)
        tokens[name] = torch.cat(inputs), torch.cat(grads)
    log_ps = [value for one in found for value in one.log_probabilities]
    value = sum(one.value for one in found)
    if not np.isfinite([*log_ps, value]).all() or not all(
        bool(torch.isfinite(side).all()) for sides in tokens.values() for side in sides
    ):
        raise NumericsError(
            f"query {query.query.query_id!r}: its log-probability or gradient is not finite; try "
            "`dtype: float32`, "
            "or another query."
        )
    return QueryGradient(tokens, log_ps, [rank for one in found for rank in one.ranks], value)


def copies(replica: Replica, answer: EncodedAnswer, n: int) -> tuple[Batch, Targets]:
    """A batch of an answer, as often as told, and what is asked of each row of it."""
    masks = None
    if answer.n_source is not None:
        masks = [np.arange(len(answer.tokens)) >= answer.n_source] * n
    tokens = np.array(answer.tokens + answer.ending)
    batch = make_batch([tokens] * n, [0] * n, replica.device, masks)
    label = None if answer.label is None else answer.label.index
    return batch, replica.asked(answer.first_target, len(answer.tokens), label).targets(batch)


def _answer_gradient(
    replica: Replica, query: EncodedQuery, answer: EncodedAnswer, function: Function | None
) -> QueryGradient:
    """What one answer adds, of the modules that it reaches."""
    batch, targets = copies(replica, answer, 1)
    dtype = accumulation_dtype(replica.numerics.torch_dtype)
    tokens: dict[str, tuple[Tensor, Tensor]] = {}
    values: list[Tensor] = []
    places: list[Tensor] = []

    def objective() -> Tensor:
        found = _answer_value(replica, query, answer, function, (batch, targets))
        places.append(ranks(found.logits_NV.detach(), targets.labels_N))
        values.extend((found.log_ps_N.detach(), found.value.detach()))
        return found.value

    def consume(name: str, rows: Rows) -> None:
        tokens[name] = rows.inputs_BRI[0].to(dtype), rows.grads_BRO[0].to(dtype)

    backward(replica.modules, batch.shape, objective, consume, sides_of(replica.model, batch))
    log_ps = [float(value) for value in values[0]]
    return QueryGradient(tokens, log_ps, [int(rank) for rank in places[0]], float(values[1]))


class _AnswerValue(NamedTuple):
    """What an answer adds to f, and of which logits of its N targets."""

    value: Tensor
    log_ps_N: Tensor
    logits_NV: Tensor


def _answer_value(
    replica: Replica,
    query: EncodedQuery,
    answer: EncodedAnswer,
    function: Function | None,
    asked: tuple[Batch, Targets],
) -> _AnswerValue:
    """A forward pass over an answer, and what of it is asked for."""
    batch, targets = asked
    logits_BTV = forward_logits(replica.model, targets.given(batch))
    logits_NV = target_logits(logits_BTV, targets)
    log_ps_N = log_probabilities(logits_NV, targets.labels_N)
    if function is None or query.function is None:
        # Of log-probabilities these are at hand.
        plain = answer.measurement == LOG_PROBABILITY
        measure = MEASUREMENTS[answer.measurement]
        measured_N = log_ps_N if plain else measure(logits_NV, targets.labels_N)
        value = of_measurements(answer, measured_N)
    else:
        value = of_function(
            answer, query.function.name, function, logits_BTV[0, : len(answer.tokens)]
        )
    return _AnswerValue(value, log_ps_N, logits_NV)


def query_value(replica: Replica, query: EncodedQuery) -> float:
    """The value f of a query, as :func:`query_gradient` has it, by forward passes alone."""
    with torch.no_grad():
        return float(query_tensor(replica, query))


def query_tensor(replica: Replica, query: EncodedQuery) -> Tensor:
    """The same with its history, of a model whose weights require gradients."""
    function = None if query.function is None else query.function.load()
    values = [
        _answer_value(replica, query, one, function, copies(replica, one, 1)).value
        for one in query.answers
    ]
    return torch.stack(values).sum()


#: Of one module: the batch's place in the window, and what the module saw of it.
Part = tuple[int, Rows]


def seen_widths(replica: Replica) -> int:
    """Numbers that modules see of each token; inputs that they share are held once.

    Those of experts are not among them. A tied embedding sees each token twice.
    """
    shapes, tied = replica.shapes, lookups(replica.modules)
    return sum(
        (shape.d_out + (shape.d_in if shape.source == name else 0)) * (2 if name in tied else 1)
        for name, shape in shapes.items()
        if not shape.routed
    )


class Held:
    """What the modules of some batches saw, held to be scored together: a window."""

    def __init__(self, replica: Replica) -> None:
        # A function of shapes alone, so that a split is always cut into the same windows.
        self._widths = seen_widths(replica)
        self._operand = operand_dtype(replica.numerics.torch_dtype, replica.device)
        self._capacity = WINDOW_BYTES[replica.device.type] // self._operand.itemsize
        self._most = WINDOW_SEQUENCES[replica.device.type]
        self._batches: list[Batch] = []
        self._n_numbers = self._n_sequences = self._n_routed = 0
        self._parts: dict[str, list[Part]] = {}

    def hold(self, _batch: Batch, name: str, rows: Rows) -> None:
        """Keep what a module saw of the batch that is under way."""
        part = len(self._batches), rows.to(self._operand)
        self._parts.setdefault(name, []).append(part)
        if rows.tokens_BR is not None:  # some of the tokens, and who knows how many
            self._n_routed += rows.inputs_BRI.numel() + rows.grads_BRO.numel()

    def add(self, batch: Batch) -> bool:
        """Take note of a batch that has been held; whether the window is full."""
        self._batches.append(batch)
        numbers = self._widths * batch.tokens_BT.numel() + self._n_routed
        self._n_numbers += numbers
        self._n_sequences += len(batch.lengths_B)
        self._n_routed = 0
        # The next is mostly like this one.
        full = self._n_numbers + numbers > self._capacity
        return full or self._n_sequences >= self._most

    def take(self) -> tuple[list[Batch], dict[str, list[Part]]]:
        """The window, by batch and by module; it is empty afterwards."""
        window = self._batches, self._parts
        self._batches, self._parts = [], {}
        self._n_numbers = self._n_sequences = 0
        return window


class Window:
    """Scores what the modules of some batches saw.

    Args:
        replica: the model.
        banks: to score with.
    """

    def __init__(self, replica: Replica, banks: Sequence[QueryBank]) -> None:
        self._shapes = replica.shapes
        self._banks = banks
        self._normalised = any(bank.normalised for bank in banks)
        self._contraction = Contraction()
        self._held = Held(replica)
        self.hold = self._held.hold

    def add(self, batch: Batch) -> list[tuple[Batch, list[NDArray[np.float64]]]]:
        """Take note of a batch that has been held; scores, if the window is full."""
        return self.scores() if self._held.add(batch) else []

    def scores(self) -> list[tuple[Batch, list[NDArray[np.float64]]]]:
        """The batches of the window, each with its scores [B, Q] for every bank; empties it."""
        batches, held = self._held.take()
        if not batches:
            return []
        ends = np.cumsum([len(batch.lengths_B) for batch in batches])
        device = batches[0].tokens_BT.device
        totals = [
            torch.zeros(int(ends[-1]), len(bank), dtype=torch.float64, device=device)
            for bank in self._banks
        ]
        sums = torch.zeros(int(ends[-1]), dtype=torch.float64, device=device)
        for name in [name for name in self._shapes if name in held]:
            parts = held.pop(name)
            seen = [(rows.inputs_BRI, rows.grads_BRO) for _, rows in parts]
            squares = Squares(seen, self._shapes[name].bias) if self._normalised else None
            found = self._contraction.scores(
                seen, [bank.modules[name] for bank in self._banks], squares
            )
            # A module that a batch does not reach adds nothing to its scores.
            places = torch.cat(
                [torch.arange(int(ends[i]) - len(rows), int(ends[i])) for i, rows in parts]
            )
            for total, part in zip(totals, found, strict=True):
                total.index_add_(0, places.to(device), part.double().to(device))
            if squares is not None:
                sums.index_add_(0, places.to(device), squares.sums_n.to(device))
        whole = [total.cpu().numpy() for total in totals]
        for bank, of_bank in zip(self._banks, whole, strict=True):
            if bank.normalised:
                of_bank *= per_length(sums.cpu().numpy())[:, None]
        return [
            (batch, [part[end - len(batch.lengths_B) : end] for part in whole])
            for batch, end in zip(batches, ends, strict=True)
        ]


def score_split(
    replica: Replica,
    banks: Sequence[AnyBank],
    table: pa.Table,
    advance: Advance = lambda tokens: None,
) -> list[Scored]:
    """Score a split against every query of every bank, in one forward and backward pass.

    There is none for banks that read texts alone, and one forward for each that reads what the last
    layer sees. What a bank yields does not depend on the banks beside it. ``advance`` is told of
    the tokens of each batch of what takes longest.
    """
    of_gradients = [bank for bank in banks if isinstance(bank, QueryBank)]
    scored = iter(_by_gradients(replica, of_gradients, table, advance) if of_gradients else ())
    untold = advance if not of_gradients else lambda tokens: None

    def by(bank: AnyBank) -> Scored:
        if isinstance(bank, QueryBank):
            return next(scored)
        if isinstance(bank, TextBank):
            return _by_texts(replica, bank, table)
        return score_representers(replica, bank, table, untold)

    return list(map(by, banks))


def _by_texts(replica: Replica, bank: TextBank, table: pa.Table) -> Scored:
    """The scores of all rows but those that the model cannot take, which no method scores."""
    bad = bad_rows(table, replica.vocabulary, replica.context)
    rows = [row for row in range(len(table)) if row not in bad]
    ids, sequences = table["sequence_id"].to_numpy(), sequences_of(table)
    chosen = [sequences[row] for row in rows]
    return Scored(
        ids[rows],
        bank.scores(chosen),
        sum(map(len, chosen)),
        whole({int(ids[row]): reason for row, reason in bad.items()}),
    )


def _by_gradients(
    replica: Replica, banks: Sequence[QueryBank], table: pa.Table, advance: Advance
) -> list[Scored]:
    """The scores of what the model takes, and has finite scores of."""
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
        finite_scores(of_bank, len(bank), quarantine)
        for bank, of_bank in zip(banks, found, strict=True)
    ]
