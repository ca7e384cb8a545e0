"""Capture: tracked modules' inputs, and an objective's gradients in their outputs.

B sequence in batch, T token, I input width, O output width. No weight gradient is computed, and the
backward pass ends at the first tracked module, because nothing before it requires a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError

#: Calls of a module in a message.
_SHOWN = 6
#: Receives (module name, inputs [B, T, I], output gradients [B, T, O]) as soon as a module's are
#: complete.
Consumer = Callable[[str, Tensor, Tensor], None]


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a layer is called with: its first argument, or the only one where it has a name.

    None where that is no tensor.
    """
    given = args[:1] or (tuple(kwargs.values()) if len(kwargs) == 1 else ())
    return given[0] if given and isinstance(given[0], Tensor) else None


@dataclass
class _Call:
    """One call of a module in the forward pass."""

    inputs_BTI: Tensor
    version: int
    grads_BTO: Tensor | None = None


def backward(
    modules: Mapping[str, nn.Module], objective: Callable[[], Tensor], consume: Consumer
) -> None:
    """Run an objective forward and backward; hand over inputs and output gradients.

    A module called n times in one forward pass is handed over once, its calls joined along the
    token axis [B, n T, .]: sums over tokens then sum over calls, as a shared weight's gradient
    does. Hooks are gone afterwards, whatever happens, and the forward pass computes what it
    computes without them.

    Args:
        modules: the tracked modules by name; no parameter of the model may require a gradient.
        objective: runs the model and returns a scalar that is a sum over sequences.
        consume: called once per module that took part, in the order of the backward pass.

    Raises:
        ModelError: a module's input is not [B, T, I] or was changed in place, its output is no
            tensor, or nothing tracked is reached.
    """
    calls: dict[str, list[_Call]] = {}
    leaves: list[Tensor] = []

    def on_gradient(name: str, call: _Call, gradient: Tensor) -> None:
        call.grads_BTO = gradient
        if all(other.grads_BTO is not None for other in calls[name]):
            _hand_over(name, calls.pop(name), consume)

    def on_forward(
        name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Tensor:
        inputs = _refuse_no_product(name, module, input_of(args, kwargs), output).detach()
        if inputs.ndim != 3:
            raise ModelError(
                f"module {name} receives inputs of shape {tuple(inputs.shape)}; only [sequence, "
                "token, width] can be attributed to sequences. Leave it out of `modules`."
            )
        tapped: Tensor = output
        if not output.requires_grad:
            # The graph starts here. The clone keeps an in-place operation that follows legal.
            output = output.detach().requires_grad_(True)
            leaves.append(output)
            tapped = output.clone()
        call = _Call(inputs, inputs._version)
        calls.setdefault(name, []).append(call)
        output.register_hook(partial(on_gradient, name, call))
        return tapped

    handles = [
        module.register_forward_hook(partial(on_forward, name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        with torch.enable_grad():
            value = objective()
    finally:
        for handle in handles:
            handle.remove()
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
        reached = [call for call in pending if call.grads_BTO is not None]
        if reached:
            _hand_over(name, reached, consume)


def checked(shape: tuple[int, ...], consume: Consumer) -> Consumer:
    """Refuse what is not of all sequences and all tokens of a batch, and hand over the rest.

    Args:
        shape: sequences and tokens of the batch.
        consume: what is handed over to.
    """
    n_sequences, n_tokens = shape

    def consumer(name: str, inputs: Tensor, grads: Tensor) -> None:
        if len(inputs) != n_sequences:
            raise ModelError(
                f"modules: {name} is called with {len(inputs)} of the {n_sequences} sequences of a "
                "batch, and what it sees cannot be told apart by sequence. Set `batch_tokens: 1`, "
                "which runs each sequence alone, or leave it out of `modules`."
            )
        if inputs.shape[1] % n_tokens:
            raise ModelError(
                f"modules: {name} gets {inputs.shape[1]} of the {n_tokens} tokens of a sequence, "
                "and cannot be attributed token by token. Leave it out of `modules`."
            )
        if inputs.shape[:2] != grads.shape[:2]:
            raise ModelError(
                f"modules: {name} gets inputs {_shown(inputs)} and gives {_shown(grads)}, and "
                "cannot be attributed token by token. Leave it out of `modules`."
            )
        consume(name, inputs, grads)

    return consumer


def _refuse_no_product(name: str, module: nn.Module, inputs: Tensor | None, output: Any) -> Tensor:
    """The input of a layer that takes one tensor and gives one."""
    if inputs is None:
        raise ModelError(
            f"modules: {name} ({type(module).__name__}) is called with no tensor as its first or "
            "only argument, so what it multiplies cannot be told. Leave it out of `modules`."
        )
    if not isinstance(output, Tensor):
        raise ModelError(
            f"modules: {name} ({type(module).__name__}) gives a {type(output).__name__}, and only "
            "layers that give one tensor can be tracked. Leave it out of `modules`."
        )
    return inputs


def _hand_over(name: str, calls: list[_Call], consume: Consumer) -> None:
    for call in calls:
        if call.inputs_BTI._version != call.version:
            raise ModelError(
                f"the input of module {name} was changed in place after the module used it; "
                "its gradient cannot be recovered. Leave it out of `modules`."
            )
    inputs = [call.inputs_BTI for call in calls]
    grads = [call.grads_BTO for call in calls if call.grads_BTO is not None]
    if len(calls) == 1:
        consume(name, inputs[0], grads[0])
        return
    if len({len(one) for one in [*inputs, *grads]}) > 1:
        sizes = ", ".join(str(len(one)) for one in inputs[:_SHOWN])
        raise ModelError(
            f"modules: {name} is called {len(calls)} times in one forward pass, with {sizes} "
            f"{'... ' if len(inputs) > _SHOWN else ''}sequences of a batch, and what it sees "
            "cannot be told apart by sequence. Set `batch_tokens: 1`, which runs each sequence "
            "alone, or leave it out of `modules`."
        )
    consume(name, torch.cat(inputs, dim=1), torch.cat(grads, dim=1))


def _shown(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"
