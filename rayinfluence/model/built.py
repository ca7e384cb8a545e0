"""Loading a module that a function of the user's own builds, for rows of features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rayinfluence.errors import ConfigError, ModelError, brief
from rayinfluence.model.layers import is_layer
from rayinfluence.model.load import check_finite, freeze
from rayinfluence.model.row_task import RowTask
from rayinfluence.model.weight_files import WHOLE


def load_built(path: str, dtype: torch.dtype, task: RowTask) -> nn.Module:
    """Build a module and give it its weights, frozen and in eval mode, on the CPU.

    Args:
        path: a folder with ``model.safetensors``: the module's ``state_dict``.
        dtype: of weights and activations.
        task: what it is built for, and by whom.

    Raises:
        ConfigError: the function is not there, fails, or builds no module.
        ModelError: weights are not there, or not one for one the module's; or it does not take
            rows of as many features.
        NumericsError: a weight is NaN or infinite.
    """
    name, build = task.builder.name, task.builder.load()
    try:
        model = build()
    except (Exception, SystemExit) as error:  # it is the user's, and may fail in any way
        raise ConfigError(
            f"model_function: {name} fails: {type(error).__name__}: {brief(error)}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model_function: {name} gives a {type(model).__name__}, and a torch.nn.Module is "
            "needed: return one."
        )
    if is_layer(model):
        raise ConfigError(
            f"model_function: {name} gives a {type(model).__name__} that is in no module, and so "
            "has no name: put it into one (`nn.Sequential(layer)`), and save the weights of that."
        )
    _load_weights(path, model, name)
    freeze(model.to(dtype))
    check_finite(model)
    try:
        with torch.no_grad():
            model(torch.zeros(2, task.n_features, dtype=dtype))
    except Exception as error:
        advice = "corpus.feature_columns has to name those that it was trained on"
        if dtype != torch.float32 and _takes(model.to(torch.float32), task.n_features):
            advice = "It does in float32: set `dtype: float32`"
        raise ModelError(
            f"model_function: what {name} builds does not take rows of {task.n_features:,} "
            f"features in {str(dtype).removeprefix('torch.')}: {type(error).__name__}: "
            f"{brief(error).rstrip('.')}. {advice}."
        ) from error
    return task.given_to(model)


def _takes(model: nn.Module, n_features: int) -> bool:
    """Whether a module in float32 can be run on rows of as many features."""
    try:
        with torch.no_grad():
            model(torch.zeros(2, n_features))
    except Exception:  # of the user's code
        return False
    return True


def _load_weights(path: str, model: nn.Module, name: str) -> None:
    try:
        tensors = load_file(Path(path) / WHOLE)
    except Exception as error:  # safetensors has errors of its own
        raise ModelError(f"model: {path}/{WHOLE} cannot be read: {brief(error)}.") from error
    own = model.state_dict()
    # Of names that share one tensor a file has one at the least (`save_model` writes only that).
    for names in _tied(own):
        there = [one for one in names if one in tensors]
        if any(not torch.equal(tensors[there[0]], tensors[one]) for one in there[1:]):
            raise ModelError(
                f"model: {path}/{WHOLE} has several values of {' and '.join(there)}, which are one "
                f"weight in what {name} builds. Name the function that built the model which was "
                "trained."
            )
        tensors |= {one: tensors[there[0]] for one in names if there and one not in tensors}
    problems = {
        "are missing": own.keys() - tensors.keys(),
        "have no place in the module": tensors.keys() - own.keys(),
        "have another shape": {
            key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape
        },
    }
    found = [
        f"{len(names)} weights {problem}, such as {min(names)}"
        for problem, names in problems.items()
        if names
    ]
    if found:
        raise ModelError(
            f"model: {path}/{WHOLE} is not the state_dict of what {name} builds: "
            f"{'; '.join(found)}. Save it again (`safetensors.torch.save_model`), or name the "
            "function that built the model which was trained."
        )
    model.load_state_dict(tensors)


def _tied(state: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of a ``state_dict`` by the tensor that they share, of those that share one."""
    found: dict[tuple[object, ...], list[str]] = {}
    for name, value in state.items():
        if value.numel():
            key = (value.data_ptr(), value.shape, value.stride())
            found.setdefault(key, []).append(name)
    return [names for names in found.values() if len(names) > 1]
