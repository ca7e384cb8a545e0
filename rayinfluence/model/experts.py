"""Experts of a mixture, taken apart: a layer for each expert and weight, called with routed rows.

transformers keeps the weights of a block's experts stacked, [expert, ., .] in one parameter, and
multiplies tokens with slices of them, so that there is no layer to be tracked. Here each slice
becomes one, ``experts.3.down_proj``, in the memory where it is. It is called with the rows of the
tokens that chose it, and with their places, so that who captures them knows whose they are.

N token of a batch [B T], n routed row, K choice of a token, E expert, I input width, O output
width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rayinfluence.model.parallel_experts import take_parallel_apart
from rayinfluence.model.routed import RoutedLinear, TransposedRoutedLinear, slices

#: Names of stacked weights, in the order in which they multiply. A gate is beside what it gates.
_FIRST, _LAST = ("gate_up_proj", "up_proj"), "down_proj"
#: What rounding may do to what experts give, in the order of sums alone, by bytes of a number.
_ROUNDING = {2: 0.05, 4: 1e-4, 8: 1e-4}
#: Rows that experts are tried with, and experts that each chooses.
_TRIED, _CHOICES = 4, 2


class Expert(nn.Module):
    """One expert: two layers.

    Args:
        layers: by name, in the order in which they multiply.
    """

    def __init__(self, layers: Mapping[str, RoutedLinear]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(
        self, rows_nI: Tensor, places_n: Tensor, between: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What it makes of rows [n, I]; ``between`` is what is done between its layers."""
        first, last = self.children()
        output: Tensor = last(between(first(rows_nI, places_n)), places_n)
        return output


def take_apart(model: nn.Module) -> None:
    """Put layers in the place of all stacked experts that are known, in place.

    They compute what the experts did before, up to rounding. Of each class of experts one is tried
    beside its own code first: what does not agree stays as it is, and is refused where it is named.
    """
    take_parallel_apart(model)
    agrees: dict[type, bool] = {}
    for module in list(model.modules()):
        if (mixed := _how(module)) is None:
            continue
        experts = _experts(module)
        if type(module) not in agrees:
            agrees[type(module)] = _agrees(module, experts, mixed)
        if agrees[type(module)]:
            _replace(module, experts, mixed)


#: Given what was the experts' module, its experts and what it is called with.
_Mix = Callable[..., Tensor]


def _how(module: nn.Module) -> _Mix | None:
    """How a module mixes its experts; None where it has none that are known."""
    stacks = module._parameters
    first = [name for name in _FIRST if name in stacks]
    if len(first) != 1 or _LAST not in stacks:
        return None
    if any(stack is None or stack.ndim != 3 for stack in (stacks[first[0]], stacks[_LAST])):
        return None
    # What transformers says of experts whose code can be exchanged.
    if getattr(module, "_is_expert_parallel", None) is False and hasattr(module, "_apply_gate"):
        return _of_choices
    return _of_zeros if type(module).__name__ == "Llama4TextExperts" else None


def _experts(module: nn.Module) -> list[Expert]:
    """The experts of a module, of views of its weights where these may be read as they lie."""
    # Llama 4's are [expert, I, O], and nothing says so.
    transposed = getattr(module, "is_transposed", True)
    kind = TransposedRoutedLinear if transposed else RoutedLinear
    names = [name for name in (*_FIRST, _LAST) if name in module._parameters]
    stacks = {name: slices(module._parameters[name]) for name in names}
    biases = {name: slices(module._parameters.get(f"{name}_bias")) for name in names}
    return [
        Expert(
            {
                name: kind(weight, biases[name][number] if biases[name] else None)
                for name, weight in zip(names, weights, strict=True)
            }
        )
        for number, weights in enumerate(zip(*stacks.values(), strict=True))
    ]


def _replace(module: nn.Module, experts: list[Expert], mix: _Mix) -> None:
    for name in (*_FIRST, _LAST):
        module._parameters.pop(name, None)
        module._parameters.pop(f"{name}_bias", None)
    for number, expert in enumerate(experts):
        module.add_module(str(number), expert)
    module.forward = partial(_forward, module, mix)


def _forward(module: nn.Module, mix: _Mix, *given: Tensor) -> Tensor:
    return mix(module, [one for one in module.children() if isinstance(one, Expert)], *given)


def _of_choices(
    module: Any, experts: list[Expert], hidden_NI: Tensor, chosen_NK: Tensor, weights_NK: Tensor
) -> Tensor:
    """What the experts give that each token chose, times the weights of its choices, summed.

    Args:
        module: that has the experts, and says what stands between and after their layers.
        experts: all of them.
        hidden_NI: the tokens.
        chosen_NK: numbers of experts.
        weights_NK: of the choices.
    """
    n_choices = chosen_NK.shape[-1]
    order = chosen_NK.flatten().argsort(stable=True)
    # A number that no expert has stands for none.
    counts = torch.bincount(chosen_NK.flatten(), minlength=len(experts))[: len(experts)].tolist()
    between = module._apply_gate if module.has_gate else module.act_fn
    mixed_NI = torch.zeros_like(hidden_NI)
    for expert, choices_n in zip(experts, order[: sum(counts)].split(counts), strict=True):
        if not len(choices_n):
            continue
        places_n = choices_n // n_choices
        output = expert(hidden_NI[places_n], places_n, between)
        if module.has_post_expert_norm:
            output = module.post_expert_norm(output)
        output = output * weights_NK.flatten()[choices_n, None]
        mixed_NI.index_add_(0, places_n, output.to(mixed_NI.dtype))
    return mixed_NI


def _of_zeros(module: Any, experts: list[Expert], hidden: Tensor) -> Tensor:
    """What each expert gives for all tokens, of which those that did not choose it are zeros.

    So is what it would give of them, and the gradient of its weights, as it has no biases.

    Args:
        module: Llama 4's.
        experts: all of them.
        hidden: [E N, I], the tokens once for each expert.
    """
    hidden_ENI = hidden.view(len(experts), -1, hidden.shape[-1])
    output_ENI = torch.zeros_like(hidden_ENI)

    def between(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated: Tensor = up * module.act_fn(gate)
        return activated

    for number, (expert, hidden_NI) in enumerate(zip(experts, hidden_ENI, strict=True)):
        places_n = hidden_NI.any(dim=-1).nonzero()[:, 0]
        if len(places_n):
            output_ENI[number, places_n] = expert(hidden_NI[places_n], places_n, between)
    return output_ENI.view(hidden.shape)


def _agrees(module: Any, experts: list[Expert], mix: _Mix) -> bool:
    """Whether experts give for some made-up tokens what the module's own code gives."""
    generator = torch.Generator().manual_seed(0)  # the shared one is the caller's
    first = next(experts[0].children())
    weight: Any = first.weight
    if weight.is_meta:
        return True  # there are no numbers that could disagree
    width = weight.shape[0] if isinstance(first, TransposedRoutedLinear) else weight.shape[1]

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(weight)

    given: tuple[Tensor, ...]
    if mix is _of_zeros:
        hidden = drawn(len(experts), _TRIED, width)
        hidden[1:, 1] = 0  # as of tokens that chose others
        own, given = type(module).forward, (hidden.flatten(0, 1),)
    else:
        chosen = torch.arange(_TRIED * _CHOICES).view(_TRIED, _CHOICES) % len(experts)
        given = (drawn(_TRIED, width), chosen.to(weight.device), drawn(_TRIED, _CHOICES))
        # Without what transformers may put in its place.
        own = getattr(type(module).forward, "__wrapped__", type(module).forward)
    with torch.no_grad():
        expected, found = own(module, *given).double(), mix(module, experts, *given).double()
    if expected.shape != found.shape:
        return False
    # NaN in a weight is for the one who looks for it to tell.
    close = (found - expected).norm() <= _ROUNDING[weight.element_size()] * expected.norm()
    return bool(close) or bool(expected.isnan().any())
