"""The model as a function to log-probabilities: through its output head where that stands apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import Batch, unpadded
from rayinfluence.model.dtype import named
from rayinfluence.model.feeding import arguments, called, kind_of
from rayinfluence.model.load import context_length, is_pretrained, vocabulary_size
from rayinfluence.model.losses import Choose, head_log_probabilities, log_probabilities
from rayinfluence.model.pairs import Pairs
from rayinfluence.model.row_task import row_task
from rayinfluence.model.targets import Targets
from rayinfluence.objective_kinds import (
    CLASSES_OF_ROWS,
    CLASSIFICATION,
    KINDS,
    NUMBERS,
    OF_ROWS,
    SEQ2SEQ,
)

_PROBE_TOKENS = 8


@dataclass(frozen=True)
class LanguageModel:
    """A language model whose log-probabilities are made without logits for all positions.

    Attributes:
        model: maps tokens to logits.
        body: maps tokens to the hidden states that the head turns into logits; None where the
            head does more than one matrix product (a soft cap, a scale) or is tracked itself.
        head: the output layer.
    """

    model: nn.Module
    body: nn.Module | None
    head: nn.Linear | None

    @classmethod
    def of(cls, model: nn.Module, tracked: Collection[nn.Module]) -> LanguageModel:
        """Take a model apart, if its logits on a few tokens are then the same to the last bit."""
        whole = cls(model, None, None)
        if not is_pretrained(model):
            return whole
        body, head = model.base_model, model.get_output_embeddings()
        if body is model or not isinstance(head, nn.Linear) or any(m is head for m in tracked):
            return whole
        length = min(_PROBE_TOKENS, context_length(model) or _PROBE_TOKENS)
        batch = unpadded(torch.arange(length, device=head.weight.device)[None] % len(head.weight))
        apart = cls(model, body, head)
        with torch.no_grad():
            logits = forward_logits(model, batch)
            try:
                same = torch.equal(head(apart.hidden(batch)), logits)
            except Exception:  # a body that is called otherwise than most
                return whole
        return apart if same else whole

    def hidden(self, batch: Batch) -> Tensor:
        """What the head sees [B, T, D]."""
        assert self.body is not None
        output = self.body(**arguments(self.model, batch))
        hidden: Tensor = output.last_hidden_state
        return Pairs(batch).at_tokens(hidden) if kind_of(self.model) == SEQ2SEQ else hidden

    def log_probabilities(self, batch: Batch, targets: Targets, choose: Choose) -> Tensor:
        """Log p(label) of every target of a batch [N], differentiable in tracked modules' outputs.

        Args:
            batch: the tokens.
            targets: of the batch, which say what of it the model is given.
            choose: gives the labels for the logits of some targets.
        """
        given = targets.given(batch)
        if self.head is None:
            logits = target_logits(forward_logits(self.model, given), targets)
            return log_probabilities(logits, choose(logits, slice(0, len(logits))))
        hidden = self.hidden(given).flatten(0, 1)
        rows = hidden.index_select(0, targets.places_N)
        return head_log_probabilities(rows, self.head.weight, self.head.bias, choose)


def forward_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits [B, T, V] of a transformers model, or of any module that maps tokens to logits.

    Of a classifier [B, 1, classes], as it says one thing of a text. A decoder says nothing at the
    tokens of its source but the last; there they are zero.

    Raises:
        ModelError: what it gives is no such tensor.
    """
    output = called(model, batch)
    if kind_of(model) in OF_ROWS:
        return _predictions(model, output, len(batch.lengths_B))
    if kind_of(model) == CLASSIFICATION:
        return _logits_of_classes(model, output, len(batch.lengths_B))
    if kind_of(model) == SEQ2SEQ:
        pairs = Pairs(batch)
        return pairs.at_tokens(_logits_of(model, output, pairs.target_BD.shape))
    return _logits_of(model, output, batch.shape)


def vocabulary_of(model: nn.Module) -> int | None:
    """Ids that are embedded and have a logit, or None for a module that is no transformers model.

    An id without a logit can be no target, and what stands in a sequence is one,
    unless classes are.
    """
    if row_task(model) is not None:
        return NUMBERS
    n_embedded = vocabulary_size(model)
    if n_embedded is None:
        return None
    if kind_of(model) == CLASSIFICATION:
        return n_embedded
    one = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
    with torch.no_grad():
        return min(n_embedded, forward_logits(model, unpadded(one)).shape[-1])


def n_classes_of_rows(model: nn.Module) -> int:
    """How many classes a module gives logits of for a row of features."""
    task = row_task(model)
    assert task is not None
    there = next(model.parameters()).device
    with torch.no_grad():
        one = unpadded(torch.zeros(1, task.n_tokens, dtype=torch.int64, device=there))
        return forward_logits(model, one).shape[-1]


def _predictions(model: nn.Module, output: Any, n_rows: int) -> Tensor:
    """Predictions [B, 1, 1] or logits of classes [B, 1, C] of rows of features."""
    is_class = kind_of(model) == CLASSES_OF_ROWS
    if isinstance(output, Tensor) and output.is_floating_point():
        found = output[:, None] if output.ndim == 1 and not is_class else output
        if found.ndim == 2 and len(found) == n_rows and is_class == (found.shape[1] > 1):
            return found[:, None]
    wanted = "[rows, classes] with two classes at least" if is_class else "[rows] or [rows, 1]"
    raise ModelError(
        f"{type(model).__name__} gives {_described(output)} for {n_rows} rows of features, and a "
        f"{KINDS[kind_of(model)].model} gives a tensor {wanted}. Let the module that "
        "`model_function` builds return that, or set another `objective`."
    )


def _logits_of_classes(model: nn.Module, output: Any, n_sequences: int) -> Tensor:
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == n_sequences:
        return logits[:, None]
    raise ModelError(
        f"{type(model).__name__} gives {_described(logits)} for {n_sequences} texts, and logits of "
        f"each, [{n_sequences}, classes], are needed. Name another model under `model`."
    )


def _logits_of(model: nn.Module, output: Any, shape: tuple[int, ...]) -> Tensor:
    """The logits in what a model returns: itself, or named so; alone of their shape in a tuple."""
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, tuple | list):
        # Beside them may stand a loss and a cache; of two that could be logits we choose none.
        fitting = [one for one in output if _is_for(one, shape)]
        found = fitting[0] if len(fitting) == 1 else output
    if _is_for(found, shape):
        return found  # type: ignore[no-any-return]
    wanted = f"logits of each token, [{', '.join(map(str, shape))}, vocabulary]"
    raise ModelError(
        f"{type(model).__name__} gives {_described(found)} for {shape[0]} sequences of {shape[1]} "
        f"tokens, and {wanted}, are needed: all that a text says is predicted from them. Let its "
        "`forward` return them (or an object with them as `logits`), or name another model under "
        "`model`."
    )


def _is_for(output: Any, shape: tuple[int, ...]) -> bool:
    """Whether it may be logits of all tokens, sequence by sequence."""
    return (
        isinstance(output, Tensor)
        and output.is_floating_point()
        and output.ndim == 3
        and tuple(output.shape[:2]) == shape
    )


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        kind = named(output.dtype)
        return f"a tensor [{', '.join(map(str, output.shape))}] of {kind}"
    if isinstance(output, tuple | list):
        parts = [
            _described(one) if isinstance(one, Tensor) else type(one).__name__ for one in output
        ]
        return f"a {type(output).__name__} of {', '.join(parts) or 'nothing'}"
    return "no logits" if output is None else f"a {type(output).__name__}"


def target_logits(logits_BTV: Tensor, targets: Targets) -> Tensor:
    """The logits [N, V] that predict the targets."""
    return logits_BTV.flatten(0, 1).index_select(0, targets.places_N)
