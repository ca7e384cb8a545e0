"""Checks on made-up sequences before a document is read: is this a model that we are right about?

Each answers a question whose wrong answer would be a wrong number with exit code 0: are captured
gradients those of autograd, does no token see what comes after it, does a neighbour in the batch or
padding change nothing, are there as many positions as are asked for.

B sequence in batch, T token, V vocabulary, I input width, O output width.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.capture import backward
from rayinfluence.model.head import LanguageModel, forward_logits
from rayinfluence.model.reach import listed

#: By dtype, what rounding may do to a ratio that is zero in exact arithmetic. Models that are run
#: in float64 may well compute norms and softmax in float32.
_ROUNDING = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.05}
#: The same where both sides are computed in the same shapes, and so mostly to the same bits.
_SAME_SHAPES = {torch.float64: 5e-5, torch.float32: 5e-5, torch.bfloat16: 0.01}
#: Lengths of the made-up sequences.
_LENGTHS = (12, 7, 9)
#: Weights times tokens of a forward pass that takes a second or less on one core.
_A_SECOND = 2 * 10**10


@dataclass(frozen=True)
class Passed:
    """What the checks found, as it stands in the manifest.

    Attributes:
        gradients: largest distance of a module's captured gradient from autograd's, relative.
        future: how much the last token moves the logits before it, relative to its own.
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
    sequences = [generator.choice(np.asarray(ordinary), length) for length in lengths]
    future = future_effect(model, sequences[0], ordinary, device)
    if future > _SAME_SHAPES[weight.dtype]:
        raise ModelError(
            f"{type(model).__name__} is not causal: changing the last token of a sequence changes "
            f"what it says of earlier ones (by {future:.2%} of the change at its own place), so "
            "that every token would see its target. Name a causal language model under `model`."
        )
    check_positions(model, ordinary, context, device)
    longest = context if _is_cheap(model, 2 * context) else min(context, 4 * max(_LENGTHS))
    longer = generator.choice(np.asarray(ordinary), longest)
    neighbour = neighbour_effect(model, sequences[1], longer, device, alone)
    if neighbour > allowed:
        raise ModelError(
            f"{type(model).__name__} says something else of a sequence when a longer one is beside "
            f"it (logits differ by {neighbour:.1%}), so that a score would depend on the batch. "
            "Set `batch_tokens: 1`, which runs each sequence alone, or another model."
        )
    errors = gradient_errors(language_model, modules, make_batch(sequences, range(3), device))
    wrong = {name: error for name, error in errors.items() if not error <= allowed}
    if wrong:
        worst = max(wrong, key=lambda name: wrong[name])
        raise ModelError(
            f"modules: the gradient of {len(wrong)} layers is not what their inputs and outputs "
            f"say: {listed(wrong)} ({worst}: {_share(wrong[worst])}). Their weights are also used "
            "without calling the layer, and scores would leave that part out. Leave them out of "
            "`modules`."
        )
    return Passed(max(errors.values(), default=0.0), future, neighbour, context)


def gradient_errors(
    language_model: LanguageModel, modules: Mapping[str, nn.Module], batch: Batch
) -> dict[str, float]:
    """||D - D'|| / ||D'|| of each module, D from capture and D' from autograd.

    Infinite where autograd has a gradient and capture has none. Gradients of weights exist one at a
    time. A module whose gradient is next to nothing beside the others' is measured by theirs.
    """

    def objective() -> Tensor:
        labels = batch.own_labels_N
        return language_model.log_probabilities(batch, lambda _logits, part: labels[part]).sum()

    captured: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, inputs: Tensor, grads: Tensor) -> None:
        captured[name] = inputs.flatten(0, 1).clone(), grads.flatten(0, 1).clone()

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
        with torch.enable_grad():
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


def future_effect(
    model: nn.Module, sequence: np.ndarray, ordinary: Sequence[int], device: torch.device
) -> float:
    """The largest change of earlier logits by another last token, over that of its own."""
    other = sequence.copy()
    other[-1] = next(token for token in ordinary if token != sequence[-1])
    logits = [_logits(model, [one], device)[0] for one in (sequence, other)]
    change_T = (logits[0] - logits[1]).abs().amax(dim=-1)
    return float(change_T[:-1].max() / change_T[-1].clamp_min(1e-30))


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


def check_positions(
    model: nn.Module, ordinary: Sequence[int], context: int, device: torch.device
) -> None:
    """Refuse a context for which the model has no positions, or others than for shorter ones.

    Raises:
        ModelError: with the longest context that works.
    """
    for name, module in model.named_modules():
        if hasattr(module, "inv_freq") and "position_ids" in _arguments(module.forward):
            longest = _longest(context, partial(_keeps_angles, module))
            if longest < context:
                raise ModelError(
                    f"corpus.context: in this model the angles of {name} depend on the longest "
                    f"sequence of a batch beyond {longest:,} tokens, so that a score would depend "
                    f"on the batch. Set it to at most {longest:,}."
                )
    works = _positions(model, int(ordinary[0]), context, device)
    if works is None:
        return
    if not works(context):
        longest = _longest(context, works)
        raise ModelError(
            f"corpus.context: the model fails on sequences of more than {longest:,} tokens, and "
            f"this run's may have {context:,}: it has fewer positions than its configuration says. "
            f"Set it to at most {longest:,}."
        )


def _positions(
    model: nn.Module, token: int, context: int, device: torch.device
) -> Callable[[int], bool] | None:
    """What tells whether a model has so many positions; None where that would take too long."""
    if _is_cheap(model, context):
        tokens = torch.full((1, context), token, device=device)
        return lambda length: _runs(lambda: forward_logits(model, tokens[:, :length]))
    if "position_ids" not in _arguments(model.forward):
        return None
    one = torch.full((1, 1), token, device=device)

    def at(length: int) -> bool:
        place = torch.full((1, 1), length - 1, device=device)
        return _runs(lambda: model(input_ids=one, position_ids=place, use_cache=False))

    return at


def _keeps_angles(module: nn.Module, length: int) -> bool:
    """Whether the angles of the first positions are those of a short sequence."""
    twin: Any = copy.deepcopy(module)
    device = twin.inv_freq.device
    like = torch.zeros(1, 1, 1, device=device)
    try:
        short = twin(like, torch.arange(min(8, length), device=device)[None])
        long = twin(like, torch.arange(length, device=device)[None])
    except (TypeError, AttributeError):
        return True  # called otherwise than most; a longer neighbour tells
    pairs = zip(_tensors(short), _tensors(long), strict=True)
    return all(torch.equal(a, b[:, : a.shape[1]]) for a, b in pairs)


def _tensors(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [one for one in found if torch.is_tensor(one)]


def _longest(context: int, works: Callable[[int], bool]) -> int:
    """The largest length up to a context that works, where all shorter ones do; 1 at least."""
    least, most = 1, context + 1
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if works(middle) else (least, middle)
    return least


def _is_cheap(model: nn.Module, tokens: int) -> bool:
    return tokens * sum(weight.numel() for weight in model.parameters()) <= _A_SECOND


def _logits(model: nn.Module, sequences: Sequence[np.ndarray], device: torch.device) -> Tensor:
    batch = make_batch(sequences, range(len(sequences)), device)
    with torch.no_grad():
        return forward_logits(model, batch.tokens_BT).double()


def _runs(run: Callable[[], Any]) -> bool:
    try:
        with torch.no_grad():
            run()
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def made_up(ordinary: Sequence[int], device: torch.device) -> Tensor:
    """Tokens [B, T] of sequences of one length, as unlike each other as they may be."""
    generator = np.random.default_rng(0)
    tokens = generator.choice(np.asarray(ordinary), (2, min(_LENGTHS)))
    return torch.from_numpy(tokens).to(device)


def refuse_what_does_not_run(model: nn.Module, tokens_BT: Tensor) -> None:
    """Run a model on a few tokens, and say so in words where it cannot.

    Raises:
        ModelError: with what it said.
    """
    weight = next(model.parameters())
    try:
        with torch.no_grad():
            forward_logits(model, tokens_BT)
    except (RuntimeError, NotImplementedError, IndexError, TypeError, ValueError) as error:
        dtype = str(weight.dtype).removeprefix("torch.")
        raise ModelError(
            f"{type(model).__name__} cannot run on a few tokens in {dtype} on {weight.device}: "
            f"{str(error)[:300]}. Try another `dtype` or `attention: eager`."
        ) from error


def _arguments(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _share(error: float) -> str:
    return "nothing of it was seen" if error == float("inf") else f"{error:.0%} off"
