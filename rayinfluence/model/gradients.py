"""Captured gradients beside autograd's, of one batch at a time; and gradients that are all zero."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.answers import objective
from rayinfluence.model.batches import Batch
from rayinfluence.model.capture import Consumer, backward, input_of
from rayinfluence.model.feeding import sides_of
from rayinfluence.model.foreign import BACKWARD, in_words
from rayinfluence.model.head import LanguageModel, forward_logits
from rayinfluence.model.layers import layer_of
from rayinfluence.model.reach import listed, patterns_of
from rayinfluence.model.rows import Rows

#: Weights of zeros that are tried for being why a gradient is zero, and what they are given.
_TRIED = 16
_LITTLE = 1e-2


@dataclass
class Gradients:
    """What is known of layers' gradients after some batches.

    Attributes:
        errors: the largest ||D - D'|| / ||D'||, D from capture and D' from autograd.
        norms: the largest ||D'||.
        called: layers that were called.
    """

    errors: dict[str, float] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    called: set[str] = field(default_factory=set)

    @property
    def zero(self) -> list[str]:
        """Layers that were called and have no gradient in any batch."""
        return [name for name, norm in self.norms.items() if not norm and name in self.called]


def add_gradients(
    found: Gradients,
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    batch: Batch,
    see: Consumer,
) -> None:
    """Compare each module's captured gradient of a batch with autograd's.

    The error is infinite where autograd has a gradient and capture has none. Gradients of weights
    exist one at a time. A module whose gradient is next to nothing beside the others' is measured
    by theirs.

    Args:
        found: what it is added to.
        language_model: the model.
        modules: its tracked ones.
        batch: of made-up sequences.
        see: is handed what is captured.
    """
    value = partial(objective, language_model, batch)
    captured: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, rows: Rows) -> None:
        inputs, grads = rows.inputs_BRI.flatten(0, 1), rows.grads_BRO.flatten(0, 1)
        captured[name] = inputs.clone(), grads.clone()
        see(name, rows)

    with in_words(language_model.model, "run backward", BACKWARD):
        backward(modules, batch.shape, value, keep, sides_of(language_model.model, batch))
    differences: dict[str, float] = dict.fromkeys(modules, 0.0)
    norms: dict[str, float] = dict.fromkeys(modules, 0.0)

    def compare(name: str, is_bias: bool, parameter: Tensor) -> None:
        expected = parameter.grad
        assert expected is not None
        wide = torch.promote_types(expected.dtype, torch.float32)
        layer = layer_of(modules[name])
        expected = (expected if is_bias else layer.matrix(expected)).to(wide)
        parameter.grad = None
        norms[name] += float(expected.norm()) ** 2
        if name in captured:
            inputs, grads = captured[name]
            inputs, grads = inputs.to(wide), grads.to(wide)
            expected = expected - (grads.sum(dim=0) if is_bias else grads.T @ inputs)
        differences[name] += float(expected.norm()) ** 2

    handles = []
    for name, module in modules.items():
        handles.append(
            module.register_forward_pre_hook(lambda *_, name=name: found.called.add(name))
        )
        for part, weight in module.named_parameters(recurse=False):
            # Whatever else a layer has is not tracked.
            if part in ("weight", "bias"):
                weight.requires_grad_(True)
                hook = partial(compare, name, part == "bias")
                handles.append(weight.register_post_accumulate_grad_hook(hook))
    try:
        with torch.enable_grad(), in_words(language_model.model, "run backward", BACKWARD):
            told = value()
            if told.requires_grad:  # unless none but experts are tracked, and no token chose one
                torch.autograd.backward([told])
    finally:
        for handle in handles:
            handle.remove()
        for module in modules.values():
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(False)
                weight.grad = None
    least = 1e-3 * max(norms.values(), default=0.0) ** 0.5
    for name in modules:
        error = (
            float("inf")
            if norms[name] > 0 and name not in captured
            else (differences[name] ** 0.5) / max(norms[name] ** 0.5, least, 1e-30)
        )
        # What is not a number is an error that stays.
        before = found.errors.get(name, 0.0)
        found.errors[name] = error if not error <= before else before
        found.norms[name] = max(found.norms.get(name, 0.0), norms[name] ** 0.5)


def refuse_no_gradient(
    found: Gradients,
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    batch: Batch,
) -> None:
    """Refuse layers that are called and never have a gradient; an expert may have to wait for its.

    Args:
        found: the gradients of some batches.
        language_model: the model.
        modules: its tracked ones.
        batch: of made-up sequences.

    Raises:
        ModelError: with the layers, and weights of zeros where these are why.
    """
    if not (zero := found.zero):
        return
    alive = [name for name in found.norms if found.norms[name]]
    chosen = _may_be_chosen(language_model.model, modules, zero, alive, batch)
    if not (wrong := [name for name in zero if name not in chosen]):
        return
    all_of_them = f"all {len(modules)} tracked layers" if len(wrong) == len(modules) else ""
    which = all_of_them or f"{len(wrong)} layers"
    reasons, woken = _zeros_before(language_model, modules, wrong, batch)
    advice = "Name other layers" if all_of_them else "Leave them out of"
    if reasons:
        raise ModelError(
            f"modules: the gradient of {which} is exactly zero: {listed(woken)}, as other weights "
            f"are all zeros: {listed(reasons)}. Nothing could be attributed to them, "
            "and no curvature fitted. Load a checkpoint in which these weights are trained, or "
            + (
                "name other layers under `modules`."
                if all_of_them
                else "leave them out of `modules`."
            )
        )
    raise ModelError(
        f"modules: {which} are called, and no gradient comes back to them: {listed(wrong)}. What "
        "is said of made-up sequences does not depend on their weights smoothly, as where their "
        "output only chooses (argmax), is detached or is multiplied by zero; nothing could be "
        f"attributed to them, and no curvature fitted. {advice} "
        + ("under `modules`." if all_of_them else "`modules`.")
    )


def _may_be_chosen(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    zero: Sequence[str],
    alive: Sequence[str],
    batch: Batch,
) -> set[str]:
    """Layers without a gradient that belong to experts of which others have one.

    All that is tracked of an expert that was not chosen has none. Members of a list are experts
    where they get the tokens that a router chose for them, or the very same input, of which their
    output is multiplied by zero. Blocks of a model stand in a list as well, and get what the one
    before them gives.
    """
    living = {head for name in alive for head in _members(name)}
    lists = {_list_of(member) for member in living}
    dead = {
        name: [one for one in _members(name) if one not in living and _list_of(one) in lists]
        for name in zero
    }
    wanted = {_list_of(member) for members in dead.values() for member in members}
    same = _get_the_same(model, wanted, living, batch)
    return {
        name
        for name, members in dead.items()
        if any(member in same for member in members)
        or (layer_of(modules[name]).routed and _members(name)[-1] in members)
    }


def _members(name: str) -> list[str]:
    """What of a name is a member of a list: `layers.1` and `layers.1.experts.3`."""
    parts = name.split(".")
    heads = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return [head for head in heads if "*" in _list_of(head)[1]]


def _list_of(member: str) -> tuple[str, str]:
    """What holds it, and its name in there with a star for its number."""
    parent, _, own = member.rpartition(".")
    return parent, patterns_of([f".{own}"])[0]


def _get_the_same(
    model: nn.Module, lists: Collection[tuple[str, str]], living: Collection[str], batch: Batch
) -> set[str]:
    """Members of some lists that get the very input which one with a gradient gets."""
    got: dict[str, Tensor] = {}

    def note(members: Sequence[str], given: Tensor | None) -> None:
        if given is not None:
            for member in members:
                got.setdefault(member, given)  # by what is called first of it

    handles = []
    for name, module in model.named_modules():
        if members := [member for member in _members(name) if _list_of(member) in lists]:
            handles.append(
                module.register_forward_pre_hook(
                    lambda _module, args, kwargs, members=members: note(
                        members, input_of(args, kwargs)
                    ),
                    with_kwargs=True,
                )
            )
    try:
        with torch.no_grad():
            forward_logits(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    theirs = {(_list_of(name), id(given)) for name, given in got.items() if name in living}
    return {name for name, given in got.items() if (_list_of(name), id(given)) in theirs}


def _zeros_before(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    wrong: Sequence[str],
    batch: Batch,
) -> tuple[list[str], list[str]]:
    """Weights of zeros without which some layers would have a gradient, and these layers."""
    zeros: dict[str, list[str]] = {}
    for name, weight in language_model.model.named_parameters():
        # Biases are zero in many models.
        if weight.is_floating_point() and name.rpartition(".")[2] != "bias" and not weight.any():
            zeros.setdefault(patterns_of([name])[0], []).append(name)
    kinds = list(zeros.values())[:_TRIED]
    reasons: list[str] = []
    woken: set[str] = set()
    for names in kinds:
        if woke := _woken(language_model, modules, wrong, batch, names):
            reasons += names
            woken |= woke
    if not woken:  # there may be one behind the other
        reasons = [name for names in kinds for name in names]
        woken = _woken(language_model, modules, wrong, batch, reasons)
    return (reasons, [name for name in wrong if name in woken]) if woken else ([], [])


def _woken(
    language_model: LanguageModel,
    modules: Mapping[str, nn.Module],
    wrong: Sequence[str],
    batch: Batch,
    names: Sequence[str],
) -> set[str]:
    """Those of some layers that have a gradient where weights are not zero."""
    woken: set[str] = set()
    wanted = frozenset(wrong)

    def note(name: str, rows: Rows) -> None:
        inputs, grads = rows.inputs_BRI.double(), rows.grads_BRO.double()
        gradient = grads.flatten(0, 1).T @ inputs.flatten(0, 1)
        if name in wanted and bool(gradient.any()):
            woken.add(name)

    if names:
        with _other_weights(language_model.model, names):
            backward(
                modules,
                batch.shape,
                partial(objective, language_model, batch),
                note,
                sides_of(language_model.model, batch),
            )
    return woken


@contextmanager
def _other_weights(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Weights are small random numbers meanwhile; nothing is written to where they were."""
    weights = [model.get_parameter(name) for name in names]
    before = [weight.data for weight in weights]
    generator = torch.Generator().manual_seed(0)  # the shared one is the caller's
    try:
        for weight in weights:
            drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight.data = _LITTLE * drawn.to(weight.device)
        yield
    finally:
        for weight, data in zip(weights, before, strict=True):
            weight.data = data
