"""Capture: tracked modules' inputs, and an objective's gradients in their outputs.

No weight gradient is computed, and the backward pass ends at the first tracked module, because
nothing before it requires a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.layers import layer_of
from rayinfluence.model.pairs import of_sides
from rayinfluence.model.rows import Rows, by_sequence
from rayinfluence.model.tied import lookups

#: Calls of a module in a message.
_SHOWN = 6
#: Receives (module name, what it saw of the batch) as soon as that is complete.
Consumer = Callable[[str, Rows], None]


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a layer is called with: its first argument, or the only one where it has a name.

    None where that is no tensor.
    """
    given = args[:1] or (tuple(kwargs.values()) if len(kwargs) == 1 else ())
    return given[0] if given and isinstance(given[0], Tensor) else None


@dataclass
class _Call:
    """One call in the forward pass: of a module, or of the embedding that has its weight."""

    module: nn.Module
    inputs: Tensor
    version: int
    places: Tensor | None
    gradient: Tensor | None = None


def places_of(module: nn.Module, args: tuple[Any, ...]) -> Tensor | None:
    """Which token in [B T] each row is of that a layer is called with; None where all are given."""
    places: Tensor | None = args[1] if layer_of(module).routed else None
    return places


def backward(
    modules: Mapping[str, nn.Module],
    shape: tuple[int, int],
    objective: Callable[[], Tensor],
    consume: Consumer,
    sides: Mapping[int, Tensor] | None = None,
) -> None:
    """Run an objective forward and backward; hand over what each module saw.

    A module called n times in one forward pass is handed over once, with the rows of all its calls:
    sums over rows then sum over calls, as a shared weight's gradient does. What a tied embedding
    looks up is among the calls of the output embedding. Hooks are gone afterwards, whatever
    happens, and the forward pass computes what it computes without them.

    Args:
        modules: the tracked modules by name; no parameter of the model may require a gradient.
        shape: sequences and tokens of the batch that the objective runs.
        objective: runs the model and returns a scalar that is a sum over sequences.
        consume: called once per module that took part, in the order of the backward pass; not at
            all where none but experts are tracked, and no token chose one.
        sides: of a model of two, the token of each row, by how many rows a sequence has on a side.

    Raises:
        ModelError: what a module gets or gives cannot be told apart by sequence and token, or was
            changed in place, or nothing tracked is reached.
    """
    calls: dict[str, list[_Call]] = {}
    leaves: list[Tensor] = []

    def on_gradient(name: str, call: _Call, gradient: Tensor) -> None:
        call.gradient = gradient
        if all(other.gradient is not None for other in calls[name]):
            consume(name, _rows(name, modules[name], calls.pop(name), shape, sides))

    def on_forward(
        name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor | None:
        given, output = _refuse_no_product(name, module, input_of(args, kwargs), output)
        inputs = given.detach()
        call = _Call(module, inputs, inputs._version, places_of(module, args))
        calls.setdefault(name, []).append(call)
        if layer_of(module).shares:
            if output.requires_grad:
                output.register_hook(partial(on_gradient, name, call))
            return None
        tapped: Tensor = output
        if not output.requires_grad:
            # The graph starts here. The clone keeps an in-place operation that follows legal.
            output = output.detach().requires_grad_(True)
            leaves.append(output)
            tapped = output.clone()
        elif output._is_view():
            # As of a layer with a bias. What follows in place would take the hook away.
            tapped = output.clone()
        output.register_hook(partial(on_gradient, name, call))
        return tapped

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        given = args[0]
        if given.requires_grad:
            return args
        # The graph starts at its input, as nothing can be put in the place of its product.
        leaves.append(given.detach().requires_grad_(True))
        return leaves[-1], *args[1:]

    handles = [
        module.register_forward_hook(partial(on_forward, name), with_kwargs=True)
        for name, module in (*modules.items(), *lookups(modules).items())
    ]
    handles += [
        module.register_forward_pre_hook(before)
        for module in modules.values()
        if layer_of(module).shares
    ]
    try:
        with torch.enable_grad():
            value = objective()
    finally:
        for handle in handles:
            handle.remove()
    if not leaves and all(layer_of(module).routed for module in modules.values()):
        return
    if not leaves or not value.requires_grad:
        names = ", ".join(list(modules)[:_SHOWN])
        more = f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
        raise ModelError(
            f"no tracked module takes part in the model's output (tracked are {names}{more}): they "
            "are not called, or no gradient leads back to what they give; check `modules`."
        )
    torch.autograd.grad(value, leaves, allow_unused=True)
    for name, pending in calls.items():
        # Calls whose output the objective does not depend on have no gradient and contribute
        # nothing.
        reached = [call for call in pending if call.gradient is not None]
        if reached:
            consume(name, _rows(name, modules[name], reached, shape, sides))


def _refuse_no_product(
    name: str, module: nn.Module, inputs: Tensor | None, given: Any
) -> tuple[Tensor, Tensor]:
    """The input of a layer that takes one tensor, and its product."""
    if inputs is None:
        raise ModelError(
            f"modules: {name} ({type(module).__name__}) is called with no tensor as its first or "
            "only argument, so what it multiplies cannot be told. Leave it out of `modules`."
        )
    product = layer_of(module).product(given)
    if product is None:
        raise ModelError(
            f"modules: {name} ({type(module).__name__}) gives a {type(given).__name__}, and only "
            "layers that give one tensor can be tracked. Leave it out of `modules`."
        )
    return inputs, product


def _rows(
    name: str,
    module: nn.Module,
    calls: Sequence[_Call],
    shape: tuple[int, int],
    sides: Mapping[int, Tensor] | None,
) -> Rows:
    """The rows of all calls of a module, those of a sequence one call after another."""
    n_tokens = shape[1]
    inputs: list[Tensor] = []
    grads: list[Tensor] = []
    places: list[Tensor] = []
    # What was looked up comes last.
    for call in sorted(calls, key=lambda call: call.module is not module):
        if call.inputs._version != call.version:
            raise ModelError(
                f"the input of module {name} was changed in place after the module used it; "
                "its gradient cannot be recovered. Leave it out of `modules`."
            )
        assert call.gradient is not None
        layer = layer_of(call.module)
        given = layer.inputs(call.module, call.inputs, n_tokens)
        gradient = layer.grads(call.module, call.gradient, n_tokens)
        if call.module is not module:  # its weight is this one's, transposed, and so are its sides
            given, gradient = gradient, given * gradient.any(dim=-1, keepdim=True)
        inputs.append(given)
        grads.append(gradient)
        if call.places is not None:
            places.append(call.places)
    if layer_of(module).routed:
        return _routed(name, torch.cat(inputs), torch.cat(grads), torch.cat(places), shape)
    if sides:
        found = of_sides(inputs, grads, sides, n_tokens)
        if found is None:
            raise ModelError(_apart(name, inputs, shape))
        return Rows.scattered(*found, shape)
    n_lookups = sum(call.module is not module for call in calls)
    return replace(_checked(name, inputs, grads, shape), n_looked_up=n_lookups * n_tokens)


def _routed(
    name: str, inputs_nI: Tensor, grads_nO: Tensor, places_n: Tensor, shape: tuple[int, int]
) -> Rows:
    """The rows of some tokens."""
    n_sequences, n_tokens = shape
    if int(places_n.max()) >= n_sequences * n_tokens:
        raise ModelError(
            f"modules: {name} gets rows of more than the {n_tokens} tokens of {n_sequences} "
            "sequences, and cannot be attributed token by token. Leave it out of `modules`."
        )
    return Rows.scattered(inputs_nI, grads_nO, places_n, shape)


def _checked(
    name: str, inputs: Sequence[Tensor], grads: Sequence[Tensor], shape: tuple[int, int]
) -> Rows:
    """Refuse what is not of all sequences and all tokens of a batch."""
    _, n_tokens = shape
    placed = [by_sequence(one, shape) for one in inputs], [by_sequence(one, shape) for one in grads]
    inputs_BRI = [one for one in placed[0] if one is not None]
    grads_BRO = [one for one in placed[1] if one is not None]
    if len(inputs_BRI) < len(inputs) or len(grads_BRO) < len(grads):
        raise ModelError(_apart(name, inputs, shape))
    rows = Rows(_joined(inputs_BRI), _joined(grads_BRO), n_tokens)
    if rows.inputs_BRI.shape[1] % n_tokens:
        raise ModelError(
            f"modules: {name} gets {rows.inputs_BRI.shape[1]} of the {n_tokens} tokens of a "
            "sequence, and cannot be attributed token by token. Leave it out of `modules`."
        )
    if rows.inputs_BRI.shape[:2] != rows.grads_BRO.shape[:2]:
        raise ModelError(
            f"modules: {name} gets inputs {_shown(rows.inputs_BRI)} and gives "
            f"{_shown(rows.grads_BRO)}, and cannot be attributed token by token. Leave it out of "
            "`modules`."
        )
    return rows


def _apart(name: str, inputs: Sequence[Tensor], shape: tuple[int, int]) -> str:
    """That what a module sees cannot be told apart by sequence, and what to do."""
    n_sequences, n_tokens = shape
    what = "and what it sees cannot be told apart by sequence."
    if wrong := [one for one in inputs if one.ndim != 3]:
        return (
            f"modules: {name} is called with inputs of shape {_shown(wrong[0])} for {n_sequences} "
            f"sequences of {n_tokens} tokens, {what} Leave it out of `modules`."
        )
    sizes = ", ".join(str(len(one)) for one in inputs[:_SHOWN])
    times = f"{len(inputs)} times in one forward pass, " if len(inputs) > 1 else ""
    return (
        f"modules: {name} is called {times}with {sizes}{', ...' * (len(inputs) > _SHOWN)} of the "
        f"{n_sequences} sequences of a batch, {what} Set `batch_tokens: 1`, which runs each "
        "sequence alone, or leave it out of `modules`."
    )


def _joined(calls: Sequence[Tensor]) -> Tensor:
    return calls[0] if len(calls) == 1 else torch.cat(list(calls), dim=1)


def _shown(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"
