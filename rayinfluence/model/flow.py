"""What flows from layer to layer of a model, followed by derivatives over a few made-up tokens.

What a token is embedded as is a stream that blocks read and add to. A call of a layer *reads the
stream* where a derivative leads from the embedding to its input past all other layers; any other
*takes* what layers give. Between a layer and one that takes from it, a token may reach another.

T token, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.model.batches import unpadded
from rayinfluence.model.capture import input_of
from rayinfluence.model.feeding import arguments
from rayinfluence.model.foreign import BACKWARD, FORWARD, in_words
from rayinfluence.model.head import forward_logits
from rayinfluence.model.layers import is_linear, layer_of
from rayinfluence.model.load import is_pretrained


@dataclass(frozen=True)
class Flow:
    """What a model's layers get from each other.

    Attributes:
        called: layers that were called, in the order of their first calls.
        readers: those that read the stream, in some call.
        givers: by layer that takes, those whose outputs it takes.
        mixing: layers between whose output and what comes next (the layers that take it, or the end
            of the module that holds them) a token reaches another; and those that take it there.
        ends: those whose output leads to the logits past all other layers.
        last: the layer that was called last of all; empty where that is none of these.
        n_logits: that the model gives for a token.
    """

    called: tuple[str, ...]
    readers: frozenset[str]
    givers: Mapping[str, Set[str]]
    mixing: Set[str]
    ends: Set[str]
    last: str
    n_logits: int


def flow_of(model: nn.Module, layers: Mapping[str, nn.Module], tokens_BT: Tensor) -> Flow:
    """Follow two forward passes, with a backward pass from layer to layer in the second.

    Args:
        model: a causal language model, frozen.
        layers: of its blocks, by name; what lies outside of blocks is part of the stream.
        tokens_BT: one sequence.

    Raises:
        ModelError: the model cannot be run, forward or backward.
    """
    readers = _readers(model, layers, tokens_BT)
    watch = _Watch(layers, readers, tokens_BT.shape[1], _widths(model, tokens_BT))
    with watch.watching(model), in_words(model, "run backward", BACKWARD), torch.enable_grad():
        logits = forward_logits(model, unpadded(tokens_BT))
        ends = watch.leading_to(logits)
    names = frozenset(name for name, _ in readers)
    n_logits = logits.shape[-1]
    return Flow(tuple(watch.calls), names, watch.givers, watch.mixing, ends, watch.last, n_logits)


def _readers(
    model: nn.Module, layers: Mapping[str, nn.Module], tokens_BT: Tensor
) -> set[tuple[str, int]]:
    """The calls (layer, and how many came before) to which a derivative leads past all others."""
    ids = _ids(model, tokens_BT)
    calls: Counter[str] = Counter()
    readers: set[tuple[str, int]] = set()

    def begin(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
        given = [*args, *kwargs.values()]
        if not isinstance(output, Tensor) or not any(_is(a, b) for a in given for b in ids):
            return None
        if output.requires_grad or not output.is_floating_point():
            return None
        embedded: Tensor = output.detach().requires_grad_(True)
        return embedded.clone()  # what follows may write into it

    def take(name: str, args: Any, kwargs: Any) -> None:
        given = input_of(args, kwargs)
        if given is not None and given.requires_grad:
            readers.add((name, calls[name]))
        calls[name] += 1

    def cut(_name: str, output: Any) -> Tensor | None:
        return output.detach() if isinstance(output, Tensor) else None

    ours = set(layers.values())
    others = [module for module in model.modules() if module not in ours]
    handles = [module.register_forward_hook(begin, with_kwargs=True) for module in others]
    with _hooked(layers, take, cut), torch.enable_grad():
        try:
            with in_words(model, f"run on {tokens_BT.shape[1]} tokens", FORWARD):
                forward_logits(model, unpadded(tokens_BT))
        finally:
            for handle in handles:
                handle.remove()
    return readers


def _ids(model: nn.Module, tokens_BT: Tensor) -> list[Tensor]:
    """The tokens that a model is called with: of an encoder, and of a decoder."""
    if not is_pretrained(model):
        return [tokens_BT]
    given = arguments(model, unpadded(tokens_BT))
    return [value for name, value in given.items() if name.endswith("input_ids")]


def _widths(model: nn.Module, tokens_BT: Tensor) -> Set[int]:
    """Of a sequence: its tokens, or those of either side."""
    return {ids.shape[-1] for ids in _ids(model, tokens_BT)}


def _is(given: Any, tokens_BT: Tensor) -> bool:
    return (
        isinstance(given, Tensor)
        and not given.is_floating_point()
        and given.numel() == tokens_BT.numel()
        and torch.equal(given.flatten(), tokens_BT.flatten())
    )


@contextmanager
def _hooked(
    layers: Mapping[str, nn.Module],
    take: Callable[[str, Any, Any], None],
    give: Callable[[str, Any], Tensor | None],
) -> Iterator[None]:
    """Have each layer's arguments looked at, and its output put in another's place."""
    handles = []
    for name, module in layers.items():
        handles.append(
            module.register_forward_pre_hook(
                lambda _module, args, kwargs, name=name: take(name, args, kwargs), with_kwargs=True
            )
        )
        handles.append(module.register_forward_hook(lambda *seen, name=name: give(name, seen[-1])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Watch:
    """A pass in which each layer's output is a leaf, and each input is asked what it is made of."""

    layers: Mapping[str, nn.Module]
    readers: Set[tuple[str, int]]
    n_tokens: int
    widths: Set[int]
    calls: Counter[str] = field(default_factory=Counter)
    givers: dict[str, set[str]] = field(default_factory=dict)
    mixing: set[str] = field(default_factory=set)
    last: str = ""
    _leaves: dict[str, Tensor] = field(default_factory=dict)
    _joined: set[str] = field(default_factory=set)
    _taking: str = ""
    _of_token: bool = True

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Follow a pass of a model."""
        handles = [
            model.get_submodule(name).register_forward_hook(
                lambda *seen, inside=inside: self._end(inside, seen[-1])
            )
            for name, inside in self._by_parent(model).items()
        ]
        ours = set(self.layers.values())
        handles += [
            module.register_forward_hook(lambda *_: setattr(self, "last", ""))
            for module in model.modules()
            if is_linear(module) and module not in ours
        ]
        try:
            with _hooked(self.layers, self._take, self._give):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def leading_to(self, logits_BTV: Tensor) -> set[str]:
        """The layers whose outputs they are made of, past all other layers."""
        if not logits_BTV.requires_grad or not self._leaves:
            return set()
        leaves = list(self._leaves.values())
        found = torch.autograd.grad(logits_BTV.float().sum(), leaves, allow_unused=True)
        return {name for name, one in zip(self._leaves, found, strict=True) if one is not None}

    def _by_parent(self, model: nn.Module) -> dict[str, list[str]]:
        """Layers by the module that holds them, and is called."""
        found: dict[str, list[str]] = {}
        for name in self.layers:
            parent = name.rpartition(".")[0]
            while isinstance(model.get_submodule(parent), nn.ModuleList | nn.ModuleDict):
                parent = parent.rpartition(".")[0]
            found.setdefault(parent, []).append(name)
        return found

    def _take(self, name: str, args: Any, kwargs: Any) -> None:
        """Ask which layers' outputs an input is made of: of the last token's alone, or of more."""
        module, call = self.layers[name], self.calls[name]
        self.calls[name] += 1
        self.last = name
        if isinstance(module, nn.Conv1d) and module.kernel_size != (1,):
            self.mixing.add(name)
        given = input_of(args, kwargs)
        if given is None or (name, call) in self.readers or not given.requires_grad:
            return
        self._taking = name
        with torch.enable_grad():  # it may be called where a model wants none
            value = self._of_last(layer_of(module).inputs(module, given, self.n_tokens))
        torch.autograd.backward([value], retain_graph=True)

    def _give(self, name: str, output: Any) -> Tensor | None:
        """Put a leaf in the place of an output."""
        if not isinstance(output, Tensor):
            return None
        leaf = output.detach().requires_grad_(True)
        leaf.register_post_accumulate_grad_hook(partial(self._reach, name))
        self._leaves[name] = leaf
        return leaf.clone()

    def _reach(self, name: str, leaf: Tensor) -> None:
        """Note that what a layer gave reaches the one that is taking."""
        gradient, leaf.grad = leaf.grad, None
        assert gradient is not None
        self.givers.setdefault(self._taking, set()).add(name)
        self._joined |= {name, self._taking}
        if self._is_mixed(name, gradient):
            self.mixing |= {name, self._taking}

    def _end(self, inside: list[str], output: Any) -> None:
        """Ask of layers beside which no other takes part whether their module mixes tokens."""
        outputs = output if isinstance(output, tuple | list) else [output]
        first = next((x for x in outputs if isinstance(x, Tensor) and x.ndim > 1), None)
        alone = [name for name in inside if name in self._leaves and name not in self._joined]
        if first is None or not first.requires_grad or not alone:
            return
        with torch.enable_grad():
            value = self._of_last(first)
        leaves = [self._leaves[name] for name in alone]
        found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        for name, gradient in zip(alone, found, strict=True):
            if gradient is not None and self._is_mixed(name, gradient):
                self.mixing.add(name)

    def _of_last(self, rows: Tensor) -> Tensor:
        """A number that depends on all there is of the last token, or of one row of chosen ones."""
        axis = _token_axis(rows, self.widths)
        self._of_token = axis is not None
        last = rows.flatten(0, -2)[-1] if axis is None else rows.select(axis, -1)
        weights = torch.randn(last.shape, generator=torch.Generator().manual_seed(0))
        return (last * weights.to(last)).sum()

    def _is_mixed(self, name: str, gradient: Tensor) -> bool:
        """Whether that number has a derivative in what a layer gave for other tokens."""
        module = self.layers[name]
        rows = layer_of(module).grads(module, gradient, self.n_tokens)
        axis = _token_axis(rows, self.widths)
        by_token = rows.flatten(0, -2) if axis is None else rows.movedim(axis, 0).flatten(1)
        reached = (by_token != 0).any(dim=-1)
        if axis is not None and self._of_token:
            return bool(reached[:-1].any())
        return int(reached.sum()) > 1


def _token_axis(rows: Tensor, widths: Set[int]) -> int | None:
    """Which axis before the last is of the tokens of one sequence; None where rows were chosen."""
    axes = [axis for axis, size in enumerate(rows.shape[:-1]) if size in widths]
    return axes[0] if axes else None
