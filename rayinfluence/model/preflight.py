"""Checks on made-up sequences before a document is read: is this a model that we are right about?

Each answers a question whose wrong answer would be a wrong number with exit code 0: is the same
said of the same tokens, are captured gradients those of autograd, does no token see what comes
after it, does a neighbour in the batch or padding change nothing, are there as many positions as
are asked for.

B sequence in batch, T token, V vocabulary, I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.guest import same_draws
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.capture import backward
from rayinfluence.model.foreign import BACKWARD, FORWARD, in_words
from rayinfluence.model.head import LanguageModel, forward_logits
from rayinfluence.model.positions import affordable, check_positions
from rayinfluence.model.reach import listed

#: By dtype, what rounding may do to a ratio that is zero in exact arithmetic. Models that are run
#: in float64 may well compute norms and softmax in float32.
_ROUNDING = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.05}
#: The same where both sides are computed in the same shapes, and so mostly to the same bits.
_SAME_SHAPES = {torch.float64: 5e-5, torch.float32: 5e-5, torch.bfloat16: 0.01}
#: What rounding may do to a gradient by what else is in the batch.
_BESIDE = {torch.float64: 1e-3, torch.float32: 1e-2, torch.bfloat16: 0.25}
#: Lengths of the made-up sequences.
_LENGTHS = (12, 7, 9, 8, 11)
#: A long one has so many tokens at least, whatever it takes.
_LONG = 48
#: Tokens of a sequence that are changed.
_PLACES = 8
#: Ids that are tried for being finite.
_TRIED = 64


@dataclass(frozen=True)
class Passed:
    """What the checks found, as it stands in the manifest.

    Attributes:
        gradients: largest distance of a module's captured gradient from autograd's, relative.
        future: how much a token moves the logits before it, relative to those at its own place.
        neighbour: how much a longer neighbour moves a sequence's logits, relative.
        context: tokens of the longest sequence that positions were tried for.
    """

    gradients: float
    future: float
    neighbour: float
    context: int


def preflight(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    ordinary: Sequence[int],
    context: int,
    alone: bool = False,
) -> Passed:
    """Check a model and its tracked modules.

    Args:
        language_model: the model as it is run.
        modules: the tracked ones that text reaches.
        ordinary: token ids without a meaning of their own to the model, two at least.
        context: the most tokens of a sequence in this run.
        alone: whether each sequence is a batch of its own.

    Raises:
        ModelError: what is wrong with the model, and what to do.
    """
    model = language_model.model
    weight = next(model.parameters())
    allowed, device = _ROUNDING[weight.dtype], weight.device
    generator = np.random.default_rng(0)
    lengths = [min(length, context) for length in _LENGTHS]
    some = np.resize(np.asarray(ordinary), lengths[0])
    refuse_what_does_not_run(model, torch.from_numpy(some).to(device)[None])
    ordinary = sound_tokens(language_model, modules, ordinary, min(8, context))
    sequences = [generator.choice(np.asarray(ordinary), length) for length in lengths]
    check_positions(model, modules, ordinary, context, device)
    # Forward and backward three times each, and beside a shorter one.
    long = max(affordable(model, 12, context), min(context, _LONG))
    longer = generator.choice(np.asarray(ordinary), long)
    refuse_what_does_not_run(model, torch.from_numpy(longer).to(device)[None])
    asked = longer[: max(affordable(model, 2 * _PLACES, context), min(context, _LONG))]
    future = max(future_effect(model, one, ordinary, device) for one in (sequences[0], asked))
    if future > _SAME_SHAPES[weight.dtype]:
        raise ModelError(
            f"{type(model).__name__} is not causal: changing a token changes what is said before "
            f"it (by {future:.2%} of the change at its own place), so that tokens would see their "
            "targets. Name a causal language model under `model`."
        )
    neighbour = neighbour_effect(model, sequences[1], longer, device, alone)
    if neighbour > allowed:
        raise ModelError(
            f"{type(model).__name__} says something else of a sequence when a longer one is beside "
            f"it (logits differ by {neighbour:.1%}), so that a score would depend on the batch. "
            "Set `batch_tokens: 1`, which runs each sequence alone, or another model."
        )
    errors: dict[str, float] = dict.fromkeys(modules, 0.0)
    for members in (sequences, [longer]):
        batch = make_batch(members, range(len(members)), device)
        for name, error in gradient_errors(language_model, modules, batch).items():
            errors[name] = max(errors[name], error)
    wrong = {name: error for name, error in errors.items() if not error <= allowed}
    if wrong:
        worst = max(wrong, key=lambda name: wrong[name])
        raise ModelError(
            f"modules: the gradient of {len(wrong)} layers is not what their inputs and outputs "
            f"say: {listed(wrong)} ({worst}: {_share(wrong[worst])}). Their weights are also used "
            "without calling the layer, or the layer is more than a product, and scores would be "
            "wrong by that. Leave them out of `modules`."
        )
    beside = {} if alone else beside_errors(language_model, modules, sequences, device)
    if moved := {name: one for name, one in beside.items() if not one <= _BESIDE[weight.dtype]}:
        worst = max(moved, key=lambda name: moved[name])
        raise ModelError(
            f"modules: what {len(moved)} layers see of a sequence depends on the others in its "
            f"batch: {listed(moved)} ({worst}: gradients {_share(moved[worst])}), so that a score "
            "would be partly about another sequence. Set `batch_tokens: 1`, which runs each "
            "sequence alone, or leave them out of `modules`."
        )
    return Passed(max(errors.values(), default=0.0), future, neighbour, context)


def sound_tokens(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    ordinary: Sequence[int],
    length: int,
) -> list[int]:
    """Some of the ids, from sequences of which logits, inputs and gradients are all finite.

    A token whose embedding overflows is no fault of the arithmetic: its sequences are set aside by
    a run, and say nothing here.

    Raises:
        ModelError: there are not two.
    """
    device = next(language_model.model.parameters()).device
    some = np.asarray(ordinary)[:: max(1, len(ordinary) // _TRIED)][:_TRIED]
    sound: list[int] = []
    for start in range(0, len(some), length):
        sequence = np.resize(some[start : start + length], max(length, 2))
        finite = [torch.isfinite(_logits(language_model.model, [sequence], device)).all()]

        def note(_name: str, inputs: Tensor, grads: Tensor, finite: list[Tensor] = finite) -> None:
            finite.append(torch.isfinite(inputs).all() & torch.isfinite(grads).all())

        batch = make_batch([sequence], [0], device)
        objective = partial(_objective, language_model, batch)
        with in_words(language_model.model, "run backward", BACKWARD):
            backward(modules, objective, note)
        if all(finite):
            sound += some[start : start + length].tolist()
    if len(set(sound)) < 2:
        dtype = str(next(language_model.model.parameters()).dtype).removeprefix("torch.")
        raise ModelError(
            f"{type(language_model.model).__name__} says nothing finite of made-up sequences in "
            f"{dtype}: activations overflow. Set `dtype: float32`, or load another checkpoint."
        )
    return sound


def gradient_errors(
    language_model: LanguageModel, modules: Mapping[str, nn.Module], batch: Batch
) -> dict[str, float]:
    """||D - D'|| / ||D'|| of each module, D from capture and D' from autograd.

    Infinite where autograd has a gradient and capture has none. Gradients of weights exist one at a
    time. A module whose gradient is next to nothing beside the others' is measured by theirs.
    """
    objective = partial(_objective, language_model, batch)
    captured: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, inputs: Tensor, grads: Tensor) -> None:
        length = batch.tokens_BT.shape[1]
        if inputs.shape[1] % length:
            raise ModelError(
                f"modules: {name} gets {inputs.shape[1]} of the {length} tokens of a sequence, and "
                "cannot be attributed token by token. Leave it out of `modules`."
            )
        captured[name] = inputs.flatten(0, 1).clone(), grads.flatten(0, 1).clone()

    with in_words(language_model.model, "run backward", BACKWARD):
        backward(modules, objective, keep)
    differences: dict[str, float] = dict.fromkeys(modules, 0.0)
    norms: dict[str, float] = dict.fromkeys(modules, 0.0)

    def compare(name: str, is_bias: bool, transposed: bool, parameter: Tensor) -> None:
        expected = parameter.grad
        assert expected is not None
        wide = torch.promote_types(expected.dtype, torch.float32)
        expected = (expected.T if transposed else expected).to(wide)
        parameter.grad = None
        norms[name] += float(expected.norm()) ** 2
        if name in captured:
            inputs, grads = captured[name]
            inputs, grads = inputs.to(wide), grads.to(wide)
            expected = expected - (grads.sum(dim=0) if is_bias else grads.T @ inputs)
        differences[name] += float(expected.norm()) ** 2

    handles = []
    for name, module in modules.items():
        for part, weight in module.named_parameters(recurse=False):
            is_bias = part == "bias"
            transposed = not is_bias and not isinstance(module, nn.Linear)
            weight.requires_grad_(True)
            handles.append(
                weight.register_post_accumulate_grad_hook(
                    lambda parameter, name=name, b=is_bias, t=transposed: compare(
                        name, b, t, parameter
                    )
                )
            )
    try:
        with torch.enable_grad(), in_words(language_model.model, "run backward", BACKWARD):
            torch.autograd.backward([objective()])
    finally:
        for handle in handles:
            handle.remove()
        for module in modules.values():
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(False)
                weight.grad = None
    least = 1e-3 * max(norms.values(), default=0.0) ** 0.5
    return {
        name: float("inf")
        if norms[name] > 0 and name not in captured
        else (differences[name] ** 0.5) / max(norms[name] ** 0.5, least, 1e-30)
        for name in modules
    }


def beside_errors(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    sequences: Sequence[np.ndarray],
    device: torch.device,
) -> dict[str, float]:
    """||D_z - D'_z|| / ||D'_z|| of each module over sequences z: in one batch, and each alone."""
    together = _gradients(language_model, modules, sequences, device)
    alone = [_gradients(language_model, modules, [one], device) for one in sequences]
    errors = {}
    for name in modules:
        expected = difference = 0.0
        for row, one in enumerate(alone):
            ours = together[name][row] if name in together else torch.zeros(())
            theirs = one[name][0] if name in one else torch.zeros(())
            expected += float(theirs.norm()) ** 2
            difference += float((ours - theirs).norm()) ** 2
        errors[name] = (difference / max(expected, 1e-30)) ** 0.5
    return errors


def _gradients(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    sequences: Sequence[np.ndarray],
    device: torch.device,
) -> dict[str, Tensor]:
    """D [B, O, I] of each module that is reached."""
    batch = make_batch(sequences, range(len(sequences)), device)
    found: dict[str, Tensor] = {}

    def keep(name: str, inputs: Tensor, grads: Tensor) -> None:
        wide = torch.promote_types(grads.dtype, torch.float32)
        found[name] = grads.to(wide).transpose(1, 2) @ inputs.to(wide)

    with in_words(language_model.model, "run backward", BACKWARD):
        backward(modules, partial(_objective, language_model, batch), keep)
    return found


def _objective(language_model: LanguageModel, batch: Batch) -> Tensor:
    labels = batch.own_labels_N
    return language_model.log_probabilities(batch, lambda _logits, part: labels[part]).sum()


def future_effect(
    model: nn.Module, sequence: np.ndarray, ordinary: Sequence[int], device: torch.device
) -> float:
    """The largest change of logits before a changed token, over that at its own place.

    Tokens are changed one at a time: the last, and some before it.
    """
    (expected_TV,) = _logits(model, [sequence], device)
    worst = 0.0
    for place in sorted({len(sequence) * part // _PLACES - 1 for part in range(1, _PLACES + 1)}):
        if place < 1:
            continue
        other = sequence.copy()
        other[place] = next(token for token in ordinary if token != sequence[place])
        change_T = (_logits(model, [other], device)[0] - expected_TV).abs().amax(dim=-1)
        worst = max(worst, float(change_T[:place].max() / change_T[place].clamp_min(1e-30)))
    return worst


def neighbour_effect(
    model: nn.Module,
    sequence: np.ndarray,
    longer: np.ndarray,
    device: torch.device,
    alone: bool = False,
) -> float:
    """||change|| of a sequence's logits by a longer one, over the norm of their deviations.

    That is beside it in the batch (unless each is ``alone``), or came before.
    """
    expected = _logits(model, [sequence], device)[0]
    if alone:
        _logits(model, [longer], device)
        others = []
    else:
        others = [_logits(model, [longer, sequence], device)[1, : len(sequence)]]
    others.append(_logits(model, [sequence], device)[0])
    spread = (expected - expected.mean(dim=-1, keepdim=True)).norm().clamp_min(1e-30)
    return float(max((other - expected).norm() for other in others) / spread)


def _logits(model: nn.Module, sequences: Sequence[np.ndarray], device: torch.device) -> Tensor:
    batch = make_batch(sequences, range(len(sequences)), device)
    length = batch.tokens_BT.shape[1]
    with torch.no_grad(), in_words(model, f"run on {length} tokens", FORWARD):
        return forward_logits(model, batch.tokens_BT).double()


def made_up(ordinary: Sequence[int], device: torch.device) -> Tensor:
    """Tokens [B, T] of sequences of one length, as unlike each other as they may be."""
    generator = np.random.default_rng(0)
    tokens = generator.choice(np.asarray(ordinary), (2, min(_LENGTHS)))
    return torch.from_numpy(tokens).to(device)


def refuse_what_does_not_run(model: nn.Module, tokens_BT: Tensor) -> None:
    """Refuse a model that cannot run, or says something else of the same tokens the second time.

    First of all: the other checks compare passes, and would give a wrong reason.

    Raises:
        ModelError: with what it said; or whether it draws or remembers, and what to do.
    """

    def run(seed: int | None = None) -> Tensor:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        n_tokens = tokens_BT.shape[1]
        with torch.no_grad(), in_words(model, f"run on {n_tokens} tokens", FORWARD):
            return forward_logits(model, tokens_BT).double()

    with same_draws():
        first, second = run(seed=0), run()
        spread = (first - first.mean(dim=-1, keepdim=True)).norm().clamp_min(1e-30)
        change = float((second - first).norm() / spread)
        if change <= _SAME_SHAPES[next(model.parameters()).dtype] or not np.isfinite(change):
            return
        draws = torch.equal(run(seed=0), first)
    kind = (
        "draws random numbers in evaluation mode, as hashes and samplers do"
        if draws
        else "remembers what it was asked before, or draws from a generator of its own"
    )
    raise ModelError(
        f"{type(model).__name__} says something else of the same {tokens_BT.shape[1]} tokens each "
        f"time (logits differ by {change:.1%}): it {kind}, and a score would depend on that. "
        "Switch it off in the model's config.json or code, or name another model under `model`."
    )


def _share(error: float) -> str:
    return "nothing of it was seen" if error == float("inf") else f"{error:.0%} off"
