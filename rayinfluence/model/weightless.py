"""A model of its config.json alone, at its full size and in next to no memory: for its shapes.

Large weights are a few numbers that are seen many times, and linear layers give what depends on all
that they get, without a product. What such a model says means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rayinfluence.errors import ModelError, brief
from rayinfluence.model.experts import take_apart
from rayinfluence.model.kinds import refuse_unknown_kind
from rayinfluence.model.layers import TransposedLinear, is_layer, layer_of
from rayinfluence.model.load import freeze
from rayinfluence.model.routed import RoutedLinear
from rayinfluence.model.weight_files import CONFIG, holds_any_weights, read_config
from rayinfluence.objective_kinds import CAUSAL, KINDS
from rayinfluence.registered import only_code_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Weights of no more numbers are kept as they are.
_SMALL = 1 << 16


def has_config_alone(path: str) -> bool:
    """Whether a folder has a config.json, and no weights of any kind."""
    return (Path(path) / CONFIG).is_file() and not holds_any_weights(path)


def weightless_model(
    path: str,
    dtype: torch.dtype,
    *,
    attention: str = "sdpa",
    trust_remote_code: bool = False,
    kind: str = CAUSAL,
) -> nn.Module:
    """A model as its config.json describes it, frozen and in eval mode, on the CPU.

    Stacked experts are taken apart, as those of a model with weights are.

    Args:
        path: a folder with a config.json.
        dtype: of its weights.
        attention: as :func:`load_model` takes it.
        trust_remote_code: let the folder's own Python code run.
        kind: of its objective.

    Raises:
        ModelError: transformers has no such model, or cannot make one of this configuration.
    """
    with only_code_of(path if trust_remote_code else None):
        refuse_unknown_kind(path, read_config(path), trust_remote_code, KINDS[kind])
        try:
            model: nn.Module = _made(path, dtype, attention, trust_remote_code, KINDS[kind].loader)
        except Exception as error:  # transformers raises a dozen kinds, all of them about this file
            raise ModelError(
                f"model: {path} cannot be made of its {CONFIG}: {brief(error)}"
            ) from error
    generator = torch.Generator().manual_seed(0)
    placed: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in placed:
                    few = _few(weight, dtype, generator)
                    placed[id(weight)] = nn.Parameter(few, requires_grad=False)
                module._parameters[name] = placed[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                module._buffers[name] = torch.zeros_like(buffer, device="cpu")
    freeze(model)
    take_apart(model)  # whose experts are tried with products, so these are put aside afterwards
    for module in model.modules():
        if is_layer(module) and _is_product(module):
            d_out = layer_of(module).widths(module)[1]
            module.forward = partial(_give, torch.randn(d_out, generator=generator).to(dtype))
    return model


def _made(
    path: str, dtype: torch.dtype, attention: str, trust_remote_code: bool, loader: str
) -> PreTrainedModel:
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    for how in dict.fromkeys((attention, "eager")):
        try:
            with _unplaced():
                return getattr(transformers, loader).from_config(
                    config,
                    dtype=dtype,
                    attn_implementation=how,
                    trust_remote_code=trust_remote_code,
                )
        except Exception:
            if how == "eager":
                raise
    raise AssertionError("eager was tried last")


@contextmanager
def _unplaced() -> Iterator[None]:
    """Parameters have shapes and no memory; buffers, such as angles, are as they are."""
    register = nn.Module.register_parameter

    def without_memory(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.detach().to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign]
    try:
        with _Empty():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _is_product(layer: nn.Module) -> bool:
    """Whether a layer does nothing else, as some routers that inherit from one do."""
    return (
        type(layer).forward is nn.Linear.forward
        or isinstance(layer, RoutedLinear)
        or isinstance(layer_of(layer), TransposedLinear)
    )


class _Empty(TorchFunctionMode):
    """What is asked for empty, as large weights are, has no memory from the beginning."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        placed = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **placed})


def _few(weight: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Numbers of a weight's shape; of a large one, one row that is seen many times."""
    shape = weight.shape if weight.numel() <= _SMALL else weight.shape[-1:]
    numbers = 0.5 + torch.rand(shape, generator=generator)
    return numbers.to(dtype if weight.is_floating_point() else weight.dtype).expand(weight.shape)


def _give(bias: Tensor, given: Tensor, *_: Any) -> Tensor:
    """Numbers that depend on all of each row."""
    output: Tensor = given.mean(dim=-1, keepdim=True) + bias
    return output
