"""Models as transformers loads them, against which ours are held: their experts are stacked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import naive
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM


def untouched(
    folder: Path,
    attention: str = "eager",
    dtype: torch.dtype = torch.float64,
    loader: type = AutoModelForCausalLM,
) -> nn.Module:
    """The model of a folder, with its own code of experts."""
    return loader.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention, experts_implementation="eager"
    ).eval()


def gradients(model: nn.Module, names: Sequence[str], value: Tensor) -> dict[str, Tensor]:
    """The gradient of a value by module [O, J]; experts' are slices of stacked parameters'.

    Args:
        model: untouched, with gradients of weights.
        names: of layers, as they are called where stacks are taken apart.
        value: that the model gave.
    """
    model.zero_grad()
    value.backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name: _slice(parameters, model, name).double() for name in names}


def stored(name: str, parameters: Collection[str]) -> tuple[str, str]:
    """The names that a layer's weight and bias have in an untouched model."""
    if f"{name}.weight" in parameters:
        return f"{name}.weight", f"{name}.bias"
    experts, number, which = name.rsplit(".", 2)
    if which.isdigit():  # JetMoe's, of which each layer is a stack
        return f"{experts}.{number}.weight", ""
    return f"{experts}.{which}", f"{experts}.{which}_bias"


def _slice(parameters: Mapping[str, nn.Parameter], model: nn.Module, name: str) -> Tensor:
    of_weight, of_bias = stored(name, parameters)
    weight, bias = (
        _gradient(parameters[one]) if one in parameters else None for one in (of_weight, of_bias)
    )
    assert weight is not None
    if of_weight == f"{name}.weight":
        return naive.joined(model.get_submodule(name), weight, bias)
    experts, number, which = name.rsplit(".", 2)
    if which.isdigit():
        return weight[int(which)]
    # What is stored as [I, O] gives as many outputs as it has columns.
    module = model.get_submodule(experts)
    transposed = getattr(module, "is_transposed", "Llama4" in type(module).__name__)
    one = weight[int(number)].T if transposed else weight[int(number)]
    return one if bias is None else torch.cat([one, bias[int(number), :, None]], dim=1)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
