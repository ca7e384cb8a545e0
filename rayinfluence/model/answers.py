"""What a model says of made-up sequences: that it says it, of which tokens, and how two differ.

B sequence in batch, T token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.guest import saved_draws
from rayinfluence.model.batches import Batch, make_batch, unpadded
from rayinfluence.model.capture import backward
from rayinfluence.model.dtype import dtype_of, named
from rayinfluence.model.feeding import kind_of, sides_of
from rayinfluence.model.foreign import BACKWARD, FORWARD, in_words, running_on
from rayinfluence.model.head import LanguageModel, forward_logits
from rayinfluence.model.objectives import whole_text
from rayinfluence.model.positions import longest_that_runs, too_long
from rayinfluence.model.row_task import row_task
from rayinfluence.model.rows import Rows
from rayinfluence.objective_kinds import CLASSES_OF_ROWS, CLASSIFICATION

#: What rounding may do to a ratio where both sides are computed in the same shapes, and so mostly
#: to the same bits.
SAME_SHAPES = {torch.float64: 5e-5, torch.float32: 5e-5, torch.bfloat16: 0.01}
#: A logit so far below the first is of a token that is never said, such as one of a padded
#: vocabulary, whether it is minus infinity or a large number.
_FAR = 100.0
#: A larger change is not spelt out.
_MOST = 10.0
#: Ids that are tried for being finite.
_TRIED = 64


def answers(model: nn.Module, sequences: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Logits [B, T, V] in float64, none of them far below the first of its place."""
    return _bounded(_raw(model, make_batch(sequences, range(len(sequences)), device)))


def distance(expected: Tensor, other: Tensor) -> float:
    """||other - expected|| of logits, over the norm of the expected ones' deviations."""
    return float((other - expected).norm() / _spread(expected))


def in_per_cent(change: float, digits: int = 1) -> str:
    """A relative change in words; beside next to nothing it may be anything, and is not spelt out.

    Args:
        change: 0 where nothing changed.
        digits: after the point.
    """
    return f"more than {_MOST:,.0%}" if change > _MOST else f"{change:.{digits}%}"


def _raw(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad(), in_words(model, running_on(model, batch.shape[1]), FORWARD):
        return forward_logits(model, batch).double()


def _bounded(logits: Tensor) -> Tensor:
    floor: Tensor = logits.amax(dim=-1, keepdim=True) - _FAR
    return logits.maximum(floor)


def _spread(logits: Tensor) -> Tensor:
    """The norm of deviations; what is never said would be most of it, and hide the others."""
    said = logits > logits.amax(dim=-1, keepdim=True) - _FAR
    mean = torch.where(said, logits, 0.0).sum(-1, keepdim=True) / said.sum(-1, keepdim=True)
    among = torch.where(said, logits - mean, 0.0).norm()
    whole = (logits - logits.mean(dim=-1, keepdim=True)).norm()
    spread: Tensor = among.maximum(1e-2 * whole).clamp_min(1e-30)
    return spread


def refuse_what_does_not_run(
    model: nn.Module, tokens_BT: Tensor, context: int | None = None
) -> None:
    """Refuse a model that cannot run, or says something else of the same tokens the second time.

    First of all: the other checks compare passes, and would give a wrong reason.

    Args:
        model: the model.
        tokens_BT: made up.
        context: the most tokens of a sequence in this run, where that is known.

    Raises:
        ModelError: with what it said, or the context that works; or whether it draws or remembers,
            and what to do.
    """

    def run(seed: int | None = None) -> Tensor:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return _bounded(_raw(model, unpadded(tokens_BT)))

    restore = saved_draws()
    try:
        first, second = run(), run()
    except ModelError as error:
        if (longest := longest_that_runs(model, tokens_BT)) is None:
            raise
        raise too_long(longest, context or tokens_BT.shape[1]) from error
    change = distance(first, second)
    if change <= SAME_SHAPES[dtype_of(model)] or not np.isfinite(change):
        return
    draws = torch.equal(run(seed=0), run(seed=0))
    # Only of a model that is refused: meanwhile other threads of the caller may draw.
    restore()
    kind = (
        "draws random numbers in evaluation mode, as hashes and samplers do"
        if draws
        else "remembers what it was asked before, or draws from a generator of its own"
    )
    same, differ = f"{tokens_BT.shape[1]} tokens", "logits differ"
    where = "the model's config.json or code, or name another model under `model`"
    if (task := row_task(model)) is not None:
        # Of a single number there are no others that its deviations could be measured by.
        change = float((second - first).norm() / first.norm().clamp_min(1e-30))
        same, differ = "rows of features", "what it gives differs"
        where = f"what {task.builder.name} builds"
    raise ModelError(
        f"{type(model).__name__} says something else of the same {same} each "
        f"time ({differ} by {in_per_cent(change)}): it {kind}, and a score would depend on "
        f"that. Switch it off in {where}."
    )


def of_probabilities(model: nn.Module, tokens_BT: Tensor) -> list[str]:
    """A warning where a classifier of rows gives probabilities, which are taken for logits.

    Args:
        model: a module for rows of features.
        tokens_BT: made-up rows.
    """
    task = row_task(model)
    if task is None or task.kind != CLASSES_OF_ROWS:
        return []
    given = _raw(model, unpadded(tokens_BT))
    sums = given.sum(dim=-1)
    if bool((given < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
        return []
    return [
        f"what {task.builder.name} builds gives numbers that are not negative and add up to 1 in "
        "each row, as probabilities do, and they are taken for logits. If it ends in a softmax, "
        "build it without (the weights are the same), unless it was trained so."
    ]


def sound_tokens(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    ordinary: Sequence[int],
    length: int,
) -> list[int]:
    """Some of the ids, from sequences of which logits, inputs and gradients are all finite.

    A token whose embedding overflows is no fault of the arithmetic: its sequences are set aside by
    a run, and say nothing here. Nor is one that the model never says, such as one of a padded
    vocabulary.

    Raises:
        ModelError: there are not two.
    """
    model = language_model.model
    some = np.asarray(ordinary)[:: max(1, len(ordinary) // _TRIED)][:_TRIED]
    device = next(model.parameters()).device
    if kind_of(model) != CLASSIFICATION:  # what it says are no tokens
        said = _ever_said(model, _pieces(some, length), device)
        some = np.array([token for token in some.tolist() if token in said], dtype=np.int64)
    if len(some) < 2:
        raise ModelError(
            f"{type(model).__name__} gives no more than {len(some)} of {min(_TRIED, len(ordinary))}"
            " ordinary tokens a probability that is not zero: the logits of the others are -inf, "
            "or it has none for them. Load another checkpoint, or the tokenizer that belongs to it."
        )
    sound: list[int] = []
    without = 0
    for start in range(0, len(some), length):
        piece = some[start : start + length]
        sequence = np.resize(piece, max(length, 2))
        finite = [torch.isfinite(answers(model, [sequence], device)).all()]
        values: list[Tensor] = []

        def note(_name: str, rows: Rows, finite: list[Tensor] = finite) -> None:
            finite += [torch.isfinite(side).all() for side in (rows.inputs_BRI, rows.grads_BRO)]

        def value(batch: Batch, values: list[Tensor] = values) -> Tensor:
            values.append(objective(language_model, batch))
            return values[0]

        with in_words(model, "run backward", BACKWARD):
            batch = make_batch([sequence], [0], device)
            backward(
                modules,
                batch.shape,
                partial(value, batch),
                note,
                sides_of(language_model.model, batch),
            )
        if all(finite) and bool(torch.isfinite(values[0])):
            sound += piece.tolist()
        elif bool(torch.isneginf(values[0])):
            without += 1
    if len(set(sound)) < 2:
        dtype = named(dtype_of(model))
        if without:
            raise ModelError(
                f"{type(model).__name__} gives tokens of made-up sequences no probability (-inf) "
                f"where they stand, in {dtype}: each has a target that it rules out, and has no "
                "gradient. Switch off what bans tokens in its config.json or code, or name another "
                "model under `model`."
            )
        raise ModelError(
            f"{type(model).__name__} says nothing finite of made-up sequences in "
            f"{dtype}: activations overflow. Set `dtype: float32`, or load another checkpoint."
        )
    return sound


def _pieces(tokens: np.ndarray, length: int) -> list[np.ndarray]:
    starts = range(0, len(tokens), length)
    return [np.resize(tokens[start : start + length], max(length, 2)) for start in starts]


def _ever_said(
    model: nn.Module, sequences: Sequence[np.ndarray], device: torch.device
) -> frozenset[int]:
    """Ids that have a logit, and at some place one that is not minus infinity."""
    said: Tensor | None = None
    for sequence in sequences:
        logits = _raw(model, make_batch([sequence], [0], device))
        here = ~torch.isneginf(logits).flatten(0, 1).all(dim=0)
        said = here if said is None else said | here
    assert said is not None
    return frozenset(said.nonzero()[:, 0].tolist())


def objective(language_model: LanguageModel, batch: Batch) -> Tensor:
    """The sum of log-probabilities of a batch's own tokens."""
    targets = whole_text(kind_of(language_model.model)).targets(batch)

    def own(_logits: Tensor, part: slice) -> Tensor:
        return targets.labels_N[part]

    return language_model.log_probabilities(batch, targets, own).sum()
