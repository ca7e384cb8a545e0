"""A LoRA adapter on its base model: A and B are layers of the model, and the base is as it was."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rayinfluence.errors import ModelError, brief
from rayinfluence.model.adapters import Source
from rayinfluence.model.lora_files import WEIGHTS

#: The name that PEFT gives an adapter in a model, and what it puts before names in its files.
_NAME, _PREFIX = "default", "base_model.model."
#: What an adapter adds to a model, which alone was trained.
PATTERNS = ("*.lora_A.*", "*.lora_B.*")


def attach(model: nn.Module, source: Source, dtype: torch.dtype) -> None:
    """Put an adapter's layers into its base model.

    For a linear layer W it is W x + s B A x, with s from its configuration; W is what it was.

    Args:
        model: the base, as it was loaded.
        source: where the adapter is.
        dtype: of A and B.

    Raises:
        ModelError: it is the adapter of another model, or empty.
    """
    assert source.adapter is not None
    try:
        with warnings.catch_warnings():
            # What will be otherwise in peft, or in what it takes of others, is for its authors.
            warnings.simplefilter("ignore", FutureWarning)
            # Here, since it takes seconds to import, and few runs need it.
            from peft import LoraConfig, inject_adapter_in_model

            config = LoraConfig.from_pretrained(source.adapter)
            # Whatever it was begun with, its weights are those of the file.
            config.init_lora_weights, config.inference_mode = True, True
            inject_adapter_in_model(config, model, _NAME, low_cpu_mem_usage=True)
    except Exception as error:  # whatever it meets in a model that it was not trained on
        raise ModelError(_other_base(source, brief(error).rstrip("."))) from error
    stored = {_name_in_model(name): tensor for name, tensor in _tensors(source.adapter).items()}
    needed = {
        name: tuple(weight.shape) for name, weight in model.named_parameters() if weight.is_meta
    }
    if why := _differ(stored, needed):
        raise ModelError(_other_base(source, why))
    if not any(bool(stored[name].any()) for name in needed if ".lora_B." in name):
        raise ModelError(
            f"model: the adapter in {source.adapter} is empty: B of all its layers is zero, as "
            "before training, so that it changes nothing. Name a trained one, or the base "
            "model alone."
        )
    for name, tensor in stored.items():
        layer, _, part = name.rpartition(".")
        weight = nn.Parameter(tensor.to(dtype, copy=True), requires_grad=False)
        setattr(model.get_submodule(layer), part, weight)
    model.eval()


def adapted(model: nn.Module) -> tuple[str, ...] | None:
    """Patterns of the layers of a model's adapter; None where it has none."""
    has = any(name.endswith(f".lora_A.{_NAME}") for name, _ in model.named_modules())
    return PATTERNS if has else None


@contextmanager
def base_alone(source: Source) -> Iterator[str]:
    """The folder of a base model; links to its files where the adapter lies among them.

    transformers would put the adapter into the model by itself, if peft is installed.
    """
    if source.adapter != source.weights:
        yield source.weights
        return
    with tempfile.TemporaryDirectory(prefix="rayinfluence-base-") as links:
        for file in Path(source.weights).iterdir():
            if not file.name.startswith("adapter_"):
                (Path(links) / file.name).symlink_to(file.resolve())
        try:
            yield links
        except ModelError as error:
            raise type(error)(str(error).replace(links, source.weights)) from error


def _tensors(folder: str) -> dict[str, Tensor]:
    return load_file(Path(folder) / WEIGHTS)


def _name_in_model(name: str) -> str:
    layer, _, part = name.removeprefix(_PREFIX).rpartition(".")
    return f"{layer}.{_NAME}.{part}"


def _differ(stored: Mapping[str, Tensor], needed: Mapping[str, tuple[int, ...]]) -> str:
    """In what the weights of an adapter are not those that its place in a model needs."""
    if unknown := sorted(stored.keys() - needed.keys()):
        return f"{len(unknown)} of its weights have no place in it, such as {unknown[0]}"
    if missing := sorted(needed.keys() - stored.keys()):
        return f"it lacks {len(missing)} weights that it would have there, such as {missing[0]}"
    for name, shape in needed.items():
        if tuple(stored[name].shape) != shape:
            return f"{name} is {list(stored[name].shape)} and would have to be {list(shape)}"
    return ""


def _other_base(source: Source, why: str) -> str:
    return (
        f"model: the adapter in {source.adapter} is not one of {source.weights}: {why}. Name the "
        "model that it was trained on under `base_model`; if that is this one, download or save "
        "the adapter again."
    )
