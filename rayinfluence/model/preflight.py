"""Checks on made-up sequences before a document is read: is this a model that we are right about?

Each answers a question whose wrong answer would be a wrong number with exit code 0: is the same
said of the same tokens, are captured gradients those of autograd, does no token of a causal model
see what comes after it, do neighbours in the batch (a few, or as many as a run may have) or padding
change nothing, does each layer have a gradient, are there as many positions as are asked for.

B sequence in batch, T token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.answers import (
    SAME_SHAPES,
    in_per_cent,
    refuse_what_does_not_run,
    sound_tokens,
)
from rayinfluence.model.batches import make_batch
from rayinfluence.model.causality import PLACES, look_ahead, refuse_not_causal
from rayinfluence.model.company import (
    Alone,
    Gathering,
    Moved,
    comparing,
    gatherings,
    halves,
    neighbour_effect,
)
from rayinfluence.model.dtype import dtype_of
from rayinfluence.model.feeding import kind_of
from rayinfluence.model.foreign import FORWARD, in_words
from rayinfluence.model.gradients import Gradients, add_gradients, refuse_no_gradient
from rayinfluence.model.head import LanguageModel, forward_logits
from rayinfluence.model.layers import layer_of
from rayinfluence.model.modules import ModuleShape
from rayinfluence.model.positions import affordable, check_positions
from rayinfluence.model.reach import listed, without_last_number
from rayinfluence.model.row_task import row_task
from rayinfluence.model.rows import Rows
from rayinfluence.objective_kinds import CAUSAL

#: By dtype, what rounding may do to a ratio that is zero in exact arithmetic. Models that are run
#: in float64 may well compute norms and softmax in float32.
_ROUNDING = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.05}
#: What rounding may do to a gradient by what else is in the batch.
_BESIDE = {torch.float64: 1e-3, torch.float32: 1e-2, torch.bfloat16: 0.25}
#: Lengths of the made-up sequences.
_LENGTHS = (12, 7, 9, 8, 11)
#: A long one has so many tokens at least, whatever it takes.
_LONG = 48
#: The first of the lengths that are tried for what they reach; two tokens are a sequence.
_SHORTEST = 4
#: Passes over the longest of these, roughly: two sequences, and all shorter lengths twice.
_PASSES = 8
#: Rows of features that are tried in a batch.
_ROWS_BESIDE = (8, 32)
#: Tokens of a batch unless it is said, as on a CPU.
_BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Passed:
    """What the checks found, as it stands in the manifest.

    Attributes:
        gradients: largest distance of a module's captured gradient from autograd's, relative.
        future: how much a token moves the logits before it, relative to those at its own place;
            None where a model is meant to see what comes after a token.
        neighbour: how much a longer neighbour moves a sequence's logits, relative.
        context: tokens of the longest sequence that positions were tried for.
        sequences: the most that stood side by side in a batch.
    """

    gradients: float
    future: float | None
    neighbour: float
    context: int
    sequences: int


def preflight(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    ordinary: Sequence[int],
    context: int,
    alone: bool = False,
    batch_tokens: int = _BATCH_TOKENS,
) -> Passed:
    """Check a model and its tracked modules.

    Args:
        language_model: the model as it is run.
        modules: the tracked ones that text reaches.
        ordinary: token ids without a meaning of their own to the model, two at least.
        context: the most tokens of a sequence in this run.
        alone: whether each sequence is a batch of its own.
        batch_tokens: the most tokens of a batch of several.

    Raises:
        ModelError: what is wrong with the model, and what to do.
    """
    if (task := row_task(language_model.model)) is not None:
        return _of_rows(language_model, modules, ordinary, task.n_tokens, alone)
    model = language_model.model
    dtype, device = dtype_of(model), next(model.parameters()).device
    generator = np.random.default_rng(0)
    lengths = [min(length, context) for length in _LENGTHS]
    some = np.resize(np.asarray(ordinary), lengths[0])
    refuse_what_does_not_run(model, torch.from_numpy(some).to(device)[None], context)
    ordinary = sound_tokens(language_model, modules, ordinary, min(8, context))
    sequences = [generator.choice(np.asarray(ordinary), length) for length in lengths]
    check_positions(model, modules, ordinary, context, device, alone)
    # Forward and backward three times each, and beside a shorter one.
    long = max(affordable(model, 12, context), min(context, _LONG))
    longer = generator.choice(np.asarray(ordinary), long)
    refuse_what_does_not_run(model, torch.from_numpy(longer).to(device)[None], context)
    future = None
    if kind_of(model) == CAUSAL:
        future = _refuse_look_ahead(model, modules, longer, ordinary, context, alone)
    neighbour = neighbour_effect(model, sequences[1], longer, device, alone)
    if neighbour > _ROUNDING[dtype]:
        raise ModelError(
            f"{type(model).__name__} says something else of a sequence when a longer one is beside "
            f"it (logits differ by {in_per_cent(neighbour)}), so that a score would depend on the "
            "batch. Set `batch_tokens: 1`, which runs each sequence alone, or another model."
        )
    groups = [Gathering([one], 1) for one in [*sequences, longer]]
    if not alone:
        groups = [groups[-1], *gatherings(model, sequences, longer, batch_tokens)]
    found = _refuse_other_gradients(language_model, modules, groups, device)
    refuse_no_gradient(found, language_model, modules, groups[0].batch(device))
    worst = max(found.errors.values(), default=0.0)
    return Passed(worst, future, neighbour, context, max(group.n_rows for group in groups))


def _of_rows(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    ordinary: Sequence[int],
    n_tokens: int,
    alone: bool,
) -> Passed:
    """The checks of a module that takes rows of features, which have no order and one length."""
    model = language_model.model
    dtype, device = dtype_of(model), next(model.parameters()).device
    generator = np.random.default_rng(0)
    rows = list(generator.choice(np.asarray(ordinary), (len(_LENGTHS), n_tokens)))
    refuse_what_does_not_run(model, torch.from_numpy(rows[0]).to(device)[None])
    counts = [1] if alone else [1, len(rows), *_ROWS_BESIDE]
    with torch.no_grad(), in_words(model, "run on a row alone and beside others", FORWARD):
        apart = torch.cat([forward_logits(model, make_batch([r], [0], device)) for r in rows])
        neighbour = 0.0
        for count in counts:
            beside = forward_logits(model, Gathering(rows, count).batch(device))[: len(rows)]
            change = (beside - apart[: len(beside)]).norm() / apart.norm().clamp_min(1e-30)
            neighbour = max(neighbour, float(change.nan_to_num(nan=float("inf"))))
    if neighbour > _ROUNDING[dtype]:
        raise ModelError(
            f"{type(model).__name__} says something else of a row when others are beside it (by "
            f"{in_per_cent(neighbour)}), as normalisation by the batch does, so that a score would "
            "depend on them. Set `batch_tokens: 1`, which runs each row alone, or build it so that "
            "it does not (running statistics, and `eval()`)."
        )
    pools = [Gathering([row], 1) for row in rows]
    groups = [*pools, *(Gathering(rows, count) for count in counts[1:])]
    found = _refuse_other_gradients(language_model, modules, groups, device)
    refuse_no_gradient(found, language_model, modules, groups[-1].batch(device))
    worst = max(found.errors.values(), default=0.0)
    return Passed(worst, None, neighbour, n_tokens, max(counts))


def _refuse_look_ahead(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    longer: np.ndarray,
    ordinary: Sequence[int],
    context: int,
    alone: bool,
) -> float:
    """Refuse a model of which tokens see what comes after them, and layers that take them so."""
    most = max(affordable(model, 4 * PLACES, context), min(context, _LONG))
    found = look_ahead(model, modules, longer, most, ordinary, alone)
    refuse_not_causal(model, found)
    allowed = SAME_SHAPES[dtype_of(model)]
    if wrong := [name for name, change in found.inputs.items() if change > allowed]:
        raise ModelError(
            f"modules: what {len(wrong)} layers get at the place of a token depends on tokens "
            f"after it, though the model is causal: {listed(wrong)}. They take the tokens of a "
            "sequence in another order, so that padding would be counted as text and scores of "
            "tokens would be of others. Leave them out of `modules`."
        )
    return found.logits


def _refuse_other_gradients(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    groups: Sequence[Gathering],
    device: torch.device,
) -> Gradients:
    """Refuse layers whose gradients are not autograd's, or depend on the rest of their batch."""
    dtype = dtype_of(language_model.model)
    found = Gradients()
    moved: dict[str, tuple[float, int]] = {}
    known: dict[tuple[int, ...], Alone] = {}
    experts = {
        name: without_last_number(name)
        for name, module in modules.items()
        if layer_of(module).routed
    }
    for group in groups:
        batch, apart = group.batch(device), Moved()
        key = tuple(map(len, group.pool))  # they begin alike
        if group.n_rows > 1 and key not in known:
            known[key] = Alone.of(language_model, modules, group.pool, device)
        see = comparing(known[key], group, batch, apart) if group.n_rows > 1 else _nothing
        add_gradients(found, language_model, modules, batch, see)
        for name, error in apart.errors(experts).items():
            if not error <= moved.get(name, (0.0, 0))[0]:
                moved[name] = error, group.n_rows
    wrong = {name: one for name, one in found.errors.items() if not one <= _ROUNDING[dtype]}
    if wrong:
        worst = max(wrong, key=lambda name: wrong[name])
        raise ModelError(
            f"modules: the gradient of {len(wrong)} layers is not what their inputs and outputs "
            f"say: {listed(wrong)} ({worst}: {_share(wrong[worst])}). Their weights are also used "
            "without calling the layer, or the layer is more than a product, and scores would be "
            "wrong by that. Leave them out of `modules`."
        )
    if far := {name: pair for name, pair in moved.items() if not pair[0] <= _BESIDE[dtype]}:
        worst = max(far, key=lambda name: far[name][0])
        error, n_rows = far[worst]
        raise ModelError(
            f"modules: what {len(far)} layers see of a sequence depends on the others in its "
            f"batch: {listed(far)} ({worst}: {_share(error)} in a batch of {n_rows}), so that a "
            "score would be partly about another sequence, or about padding. Set "
            "`batch_tokens: 1`, which runs each sequence alone, or leave them out of `modules`."
        )
    return found


def _nothing(_name: str, _rows: Rows) -> None:
    """Sees nothing."""


def made_up(ordinary: Sequence[int], device: torch.device, n_tokens: int = min(_LENGTHS)) -> Tensor:
    """Tokens [B, T] of sequences of one length, as unlike each other as they may be."""
    generator = np.random.default_rng(0)
    tokens = generator.choice(np.asarray(ordinary), (2, n_tokens))
    return torch.from_numpy(tokens).to(device)


def random_directions(
    model: nn.Module, shapes: Mapping[str, ModuleShape], n: int
) -> list[dict[str, Tensor]]:
    """Normal numbers [O, J] by module, in float32 at the least, n times; where the model is."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype_of(model), torch.float32)
    device = next(model.parameters()).device

    def drawn(shape: ModuleShape) -> Tensor:
        size = shape.d_out, shape.columns
        return torch.randn(size, generator=generator, dtype=wide).to(device)

    return [{name: drawn(shape) for name, shape in shapes.items()} for _ in range(n)]


def of_other_lengths(model: nn.Module, ordinary: Sequence[int], context: int) -> Iterator[Tensor]:
    """The same of the shortest lengths and of ever longer ones, odd and even, up to a context.

    Of a model for which that takes long, the shortest, and one that is long enough for most.
    """
    device, shortest = next(model.parameters()).device, min(_LENGTHS)
    longest = max(affordable(model, _PASSES, context), min(context, _LONG))
    lengths = [one - odd for one in halves(longest, shortest) for odd in (1, 0)]
    if longest < context:
        lengths = [longest]
    for n_tokens in [*range(2, min(_SHORTEST, context) + 1), *sorted(lengths)]:
        yield made_up(ordinary, device, n_tokens)


def _share(error: float) -> str:
    """In per cent with two digits, as what is refused may be far below one."""
    if error == float("inf"):
        return "nothing of it was seen"
    rounded = float(f"{error:.2g}")
    return f"{rounded * 100:g}% off" if rounded <= 1 else f"{in_per_cent(rounded, 0)} off"
