"""LoRA adapters as PEFT saves them, by their files: plain ones are told from all others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rayinfluence.errors import ModelError
from rayinfluence.storage.downloads import Unusable, read_header, read_json_object
from rayinfluence.storage.store import Store

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"
#: What PEFT calls them.
LORA = "LORA"
#: A weight of a linear layer's update B A x: [rank, in] of A, [out, rank] of B, and B's bias.
_WEIGHT = re.compile(r"(?P<layer>.+)\.lora_(A\.weight|B\.(weight|bias))")
#: Settings of PEFT that change nothing of what an adapter computes, or that its update by B A is
#: made with. Whatever else is set makes something else of it.
_PLAIN = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode"),
    *("base_model_name_or_path", "revision", "megatron_core", "qalora_group_size"),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "lora_bias", "rank_pattern"),
    *("alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "fan_in_fan_out", "ensure_weight_tying", "eva_config"),
}
#: Ways to begin that leave the base as it is; others take something out of it.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


def is_lora(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter of PEFT, as safetensors."""
    return (folder / WEIGHTS).is_file() and peft_type(folder) == LORA


def peft_type(folder: Path) -> str | None:
    """What PEFT calls the kind of an adapter, where its configuration says so."""
    kind = _config(folder).get("peft_type")
    return kind if isinstance(kind, str) else None


def conversion(folder: str) -> str:
    """What to do about a pickle of weights, which torch reads without running code that is in it.

    Args:
        folder: of the adapter.
    """
    here, there = f"{folder}/{PICKLE}", f"{folder}/{WEIGHTS}"
    return (
        f"{PICKLE} is a pickle, which is not read. Convert it: "
        f'`python -c "import torch, safetensors.torch as s; s.save_file({{k: v.contiguous() for '
        f"k, v in torch.load({here!r}, map_location='cpu', weights_only=True).items()}}, "
        f'{there!r})"`'
    )


def refuse_more_than_lora(folder: Path, advice: str) -> str | None:
    """Refuse an adapter that is more than an update by low rank of linear layers.

    Args:
        folder: with a LoRA adapter.
        advice: what else to do about it.

    Returns:
        The name of its base model, as it was when the adapter was trained.

    Raises:
        ModelError: what it is more; or its weights are not all there, or peft is not installed.
    """
    config = _config(folder)
    more = [
        f"{key}: {value}"
        for key, value in config.items()
        if (key not in _PLAIN and value and (key, value) != ("bias", "none"))
        and not (key == "init_lora_weights" and value in _BEGINNINGS)
    ]
    try:
        tensors = read_header(Store(str(folder)), WEIGHTS)
    except Unusable as error:
        raise ModelError(f"model: {folder} cannot be loaded: {WEIGHTS} {error}.") from error
    others = [
        name
        for name, tensor in tensors.items()
        if not (match := _WEIGHT.fullmatch(name))
        or len(tensor.shape) != (1 if match[3] == "bias" else 2)
    ]
    if more or others:
        what = more[0] if more else f"it has the weight {others[0]}"
        raise ModelError(
            f"model: the adapter in {folder} is more than a LoRA of linear layers ({what}), and "
            f"such are not read. {advice}"
        )
    if alone := _without_the_other(tensors):
        more_so = f" (and so in {len(alone) - 1:,} more layers)" if len(alone) > 1 else ""
        raise ModelError(
            f"model: the adapter in {folder} is not whole: {WEIGHTS} has {alone[0]}{more_so}, of "
            "which together an update is made. Save or download the adapter again."
        )
    if not tensors:
        raise ModelError(f"model: the adapter in {folder} is empty: {WEIGHTS} holds no weight.")
    if find_spec("peft") is None:
        raise ModelError(
            f"model: the LoRA adapter in {folder} is read with the package peft, which is not "
            f"installed: pip install 'rayinfluence[lora]'. Or do without: {advice}"
        )
    named = config.get("base_model_name_or_path")
    return named if isinstance(named, str) and named else None


def _without_the_other(names: Iterable[str]) -> list[str]:
    """Of layers with one of the weights A and B alone, which is there, and which is not."""
    found: dict[str, set[str]] = {}
    for name in names:
        layer, _, weight = name.rpartition(".lora_")
        found.setdefault(layer, set()).add(weight)
    return [
        f"{layer}.lora_{'A' if 'A.weight' in weights else 'B'}.weight and no "
        f"lora_{'B' if 'A.weight' in weights else 'A'}.weight beside it"
        for layer, weights in sorted(found.items())
        if not {"A.weight", "B.weight"} <= weights
    ]


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_json_object(Store(str(folder)), CONFIG)
    except Unusable:  # an adapter of another kind, or of another library
        return {}
