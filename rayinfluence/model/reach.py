"""Which layers text reaches: what a forward pass on made-up tokens calls, and what it never will.

A layer that is not called is either one among siblings of which some are called, as experts are, or
it belongs to something that text cannot reach at all, such as a vision tower.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.batches import unpadded
from rayinfluence.model.capture import input_of
from rayinfluence.model.feeding import sides_of
from rayinfluence.model.foreign import BACKWARD, FORWARD, in_words, running_on
from rayinfluence.model.head import forward_logits
from rayinfluence.model.layers import layer_of
from rayinfluence.model.pairs import side_of
from rayinfluence.model.rows import by_sequence

#: Containers that hold modules and are never called themselves.
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
#: Names in a message.
_NAMED = 6


@dataclass(frozen=True)
class Reach:
    """What a forward pass reached.

    Attributes:
        called: names of modules that were called.
        inputs: of layers that were called, the shapes of their rows' leading axes, [sequence,
            token] where they can be told apart so, or say themselves whose they are; None where
            neither the first argument nor the only one was a tensor.
        outside: the largest modules that text does not reach.
        shapes: [sequence, token] of the pass that called each layer first, as they should be.
        unfit: layers that cannot be tracked whatever they get, with what they do.
    """

    called: frozenset[str]
    inputs: Mapping[str, tuple[int, ...] | None]
    outside: tuple[str, ...]
    shapes: Mapping[str, tuple[int, int]]
    unfit: Mapping[str, str] = field(default_factory=dict)

    def is_told_apart(self, name: str) -> bool:
        """Whether a layer was called, and its rows can be told apart by sequence and token."""
        return name in self.inputs and self.inputs[name] == self.shapes[name]

    def is_outside(self, name: str) -> bool:
        """Whether a module or a weight belongs to what text does not reach."""
        return any(_lies_in(name, top) for top in self.outside)


def reach(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    tokens_BT: Tensor,
    further: Iterable[Tensor] = (),
) -> Reach:
    """Run a model forward and note what it calls.

    Some layers are for long texts alone, or for short ones: while there is something that text does
    not reach, further lengths are tried.

    Args:
        model: a causal language model.
        modules: those of which is noted what they get and give, by name.
        tokens_BT: made up.
        further: the same of other lengths, [B, T] each; one on which the model cannot be run says
            nothing here.
    """
    passes, tried = _Passes(model, modules), [tokens_BT]
    passes.run(tokens_BT)
    tops = passes.not_called()
    for other_BT in further:
        if not tops:
            break
        with suppress(ModelError):  # that it does not run is for other checks to say
            passes.run(other_BT)
            tried.append(other_BT)
        tops = passes.not_called()
    # Backward takes longer: as it was first, and the last of them.
    ends = tried[:1] + tried[1:][-1:]
    used = {name for tokens in ends for name in _used_without_a_call(model, tops, tokens)}
    outside = tuple(top for top in tops if not any(_lies_in(name, top) for name in used))
    unfit = passes.unfit | {
        name: "is never called, while its weight is used"
        for name in modules
        if any(_lies_in(weight, name) for weight in used)
    }
    return Reach(frozenset(passes.called), passes.inputs, outside, passes.shapes, unfit)


class _Passes:
    """What forward passes called, and what layers got in the first one that called them."""

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
        self._model, self._modules = model, modules
        self._named = dict(model.named_modules())
        self.called: set[str] = set()
        self.inputs: dict[str, tuple[int, ...] | None] = {}
        self.shapes: dict[str, tuple[int, int]] = {}
        self.unfit: dict[str, str] = {}

    def run(self, tokens_BT: Tensor) -> None:
        """Run the model on made-up tokens [B, T]."""
        shape = len(tokens_BT), tokens_BT.shape[1]
        sides = sides_of(self._model, unpadded(tokens_BT))
        handles = [
            module.register_forward_pre_hook(
                lambda _module, args, kwargs, name=name: self._note(
                    name, input_of(args, kwargs), shape, sides
                ),
                with_kwargs=True,
            )
            for name, module in self._named.items()
        ]
        handles += [
            module.register_forward_hook(lambda *seen, name=name: self._note_output(name, seen[-1]))
            for name, module in self._modules.items()
        ]
        try:
            with torch.no_grad(), in_words(self._model, running_on(self._model, shape[1]), FORWARD):
                forward_logits(self._model, unpadded(tokens_BT))
        finally:
            for handle in handles:
                handle.remove()

    def _note(
        self, name: str, given: Tensor | None, shape: tuple[int, int], sides: Mapping[int, Tensor]
    ) -> None:
        self.called.add(name)
        # A layer that is called several times is as its last call in the first pass.
        if name not in self._modules or self.shapes.setdefault(name, shape) != shape:
            return
        layer = layer_of(self._modules[name])
        if given is None:
            self.inputs[name] = None
        elif layer.routed:
            self.inputs[name] = shape
        else:
            rows = layer.inputs(self._modules[name], given, shape[1])
            placed = by_sequence(rows, shape)
            if side_of(rows, sides) is not None:
                self.inputs[name] = shape
                return
            self.inputs[name] = tuple((rows if placed is None else placed).shape[:-1])

    def _note_output(self, name: str, output: object) -> None:
        if layer_of(self._modules[name]).product(output) is None:
            self.unfit[name] = f"gives a {type(output).__name__}"

    def not_called(self) -> list[str]:
        """The largest modules with weights that are not called, nor stand beside some that are."""
        tops: list[str] = []
        with_called = {head for name in self.called for head in _heads(name)}
        among_called = _Lists(self._named, self.called)
        for name, module in self._named.items():
            # What holds others comes before them, one after the other.
            within = bool(tops) and _lies_in(name, tops[-1])
            if within or not name or not any(True for _ in module.parameters()):
                continue
            if name not in with_called and not among_called(name):
                tops.append(name)
        return tops


def _lies_in(name: str, top: str) -> bool:
    return name == top or name.startswith(f"{top}.")


def _heads(name: str) -> list[str]:
    """A name, and those of all that holds it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


class _Lists:
    """Whether a module, or one that holds it, is in a list of which other members are called.

    Experts stand in a list, or side by side with numbers in their names.
    """

    def __init__(self, named: Mapping[str, nn.Module], called: set[str]) -> None:
        self._named, self._called = named, called
        self._of: dict[tuple[str, type, str], int] = {}
        for name in called & named.keys():
            key = self._list(name)
            self._of[key] = self._of.get(key, 0) + 1

    def __call__(self, name: str) -> bool:
        for head in _heads(name):
            parent = head.rpartition(".")[0]
            if self._of.get(self._list(head), 0) > (head in self._called):
                return True
            if parent in self._called:
                return False
        return False

    def _list(self, name: str) -> tuple[str, type, str]:
        """What the members of its list have in common."""
        parent = name.rpartition(".")[0]
        (pattern,) = patterns_of([name])
        alike = "" if isinstance(self._named[parent], _CONTAINERS) else pattern
        return parent, type(self._named[name]), alike


def _used_without_a_call(model: nn.Module, tops: list[str], tokens_BT: Tensor) -> set[str]:
    """The weights of some modules that are never called on which the output depends, by name."""
    weights = {
        f"{top}.{name}": weight
        for top in tops
        for name, weight in model.get_submodule(top).named_parameters()
        if weight.is_floating_point()
    }
    if not weights:
        return set()
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        with torch.enable_grad(), in_words(model, "run backward", BACKWARD):
            value = forward_logits(model, unpadded(tokens_BT)).float().logsumexp(dim=-1).sum()
            if not value.requires_grad:
                return set()
            found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    return {name for name, gradient in zip(weights, found, strict=True) if gradient is not None}


def tracked_and_reached(
    modules: Mapping[str, nn.Module], found: Reach
) -> tuple[dict[str, nn.Module], list[str]]:
    """The tracked modules that text can reach, and the names of the others.

    Raises:
        ModelError: none is reached.
    """
    kept = {name: module for name, module in modules.items() if not found.is_outside(name)}
    if not kept:
        raise ModelError(
            f"modules: text reaches none of the {len(modules)} layers that are tracked (such as "
            f"{next(iter(modules))}): they belong to {listed(found.outside)}. Name layers of the "
            "language model under `modules`."
        )
    return kept, [name for name in modules if name not in kept]


def without_unfit(
    modules: Mapping[str, nn.Module], found: Reach
) -> tuple[dict[str, nn.Module], list[str]]:
    """Of what was chosen by its part, what can be tracked, and the names of the others.

    Some routers give what they chose, or use their layer's weight alone. Where there is nothing
    else they stay, so that they are refused in words.
    """
    kept = {name: module for name, module in modules.items() if name not in found.unfit}
    return (kept, [name for name in modules if name in found.unfit]) if kept else ({**modules}, [])


def refuse_other_weights(modules: Mapping[str, nn.Module]) -> None:
    """Refuse layers whose weight is no parameter of theirs, or holds no floating-point numbers.

    Raises:
        ModelError: with the layers and what to do.
    """
    computed, quantised = [], []
    for name, module in modules.items():
        weight = module._parameters.get("weight")
        if weight is None:
            computed.append(name)
        elif not weight.is_floating_point() or weight.element_size() < 2:
            quantised.append(name)
    for names, what, advice in (
        (computed, "is computed from other parameters, as by weight normalisation", "Fold it in"),
        (quantised, "is quantised and has no gradient", "Load the model in full precision"),
    ):
        if names:
            raise ModelError(
                f"modules: the weight of {len(names)} layers {what}: {listed(names)}. {advice} "
                "and save it again, or leave them out of `modules`."
            )


def patterns_of(names: Iterable[str]) -> list[str]:
    """Names with a star for each number, each once: `model.layers.*.mlp.up_proj`."""
    return list(dict.fromkeys(re.sub(r"(?<=[._])\d+(?=[._]|$)", "*", name) for name in names))


def patterns_within(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The same, and where a star would mean one of the others too, the names themselves."""
    names = list(names)
    wider = set(patterns_of({*others}.difference(names)))
    each = ((patterns_of([name])[0], name) for name in names)
    return list(dict.fromkeys(name if pattern in wider else pattern for pattern, name in each))


def without_last_number(name: str) -> str:
    """A name with a star for its last number, as all experts of a block have it in common."""
    return re.sub(r"^(.*[._])\d+(?=[._]|$)", r"\1*", name)


def listed(names: Iterable[str], most: int = _NAMED) -> str:
    """Some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
