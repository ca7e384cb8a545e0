"""Checkpoints of quantised weights: as plain numbers they would be another model.

transformers undoes some quantisations when config.json names them (``quantization_config``) and the
scales are there. Otherwise it takes integers for weights in silence.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from rayinfluence.model.weight_files import converted
from rayinfluence.storage.downloads import StoredTensor

#: What weights are stored as; whatever else there is has other uses (masks, positions, counts).
_FULL = {"F64", "F32", "F16", "BF16"}
#: Types that no mask and no position is stored as.
_FEW_BITS = re.compile(r"(F4|F6|F8)(_.*)?")
#: Last parts of names that quantised models have beside their weights.
_BESIDE = re.compile(
    r"(weight|input|output|activation|kv|[kvqo])_scale(_inv|_2)?|w?scales?(_and_zeros)?|"
    r"q?zeros|(weight_)?zero_points?|q_?weight|weight_(packed|shape|format|g_idx)|g_idx|"
    r"(nested_)?absmax|(nested_)?quant_map|quant_state(__.*)?|bitsandbytes__.*|SCB|"
    r".*_(blocks|scales)|meta_scale|_data|_scale|codebooks|qparams",
)
#: The method whose models transformers saves dequantised, and the package that it takes.
_BITS_AND_BYTES = "bitsandbytes"


def few_bits(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Names of tensors of types that only quantised weights have."""
    return [name for name, tensor in tensors.items() if _FEW_BITS.fullmatch(tensor.dtype)]


def quantised(
    tensors: Mapping[str, StoredTensor],
    left: Collection[str],
    config: Mapping[str, Any],
    model: nn.Module,
) -> list[str]:
    """What a checkpoint holds of quantised weights, as ``name (I8)``.

    Args:
        tensors: what its files hold, less what the model computes itself.
        left: names of those that were not loaded.
        config: its config.json.
        model: as it was loaded.
    """
    own = {n for n, tensor in _state(model) if not tensor.is_floating_point()}
    own |= {n.partition(".")[2] for n in own}  # files may leave out the base model's name
    undone: set[str] = set()
    if config.get("quantization_config"):
        undone = {_module(n) for n in tensors if n not in left and _is_beside(n)}
        undone |= {_module(n) for n in undone if n.endswith(".weight")}
    ignored = _ignored(model)
    return [
        f"{name} ({tensor.dtype})"
        for name, tensor in tensors.items()
        if (name in left and (_is_beside(name) or _FEW_BITS.fullmatch(tensor.dtype)))
        or (
            tensor.dtype not in _FULL
            and name not in left
            and not (ignored and ignored.search(name))
            and name not in own
            and _module(name) not in undone
        )
    ]


def said(found: list[str]) -> str:
    """Why such a checkpoint is refused, as the end of a sentence, and what to do."""
    tensors = f"{len(found)} tensors" if len(found) > 1 else "a tensor"
    return (
        f"holds quantised weights: {tensors}, such as {' and '.join(found[:2])}, that nothing "
        "turns into the floating-point numbers that the model computes with. Read as they are they "
        "would be another model. Name the model that was quantised, or dequantise it and "
        "save it with the config.json of that one, without quantization_config"
    )


def dequantising(path: str, config: Mapping[str, Any]) -> str:
    """What dequantises a model, as a clause, where it is of the kind that transformers saves so.

    Args:
        path: its folder.
        config: its config.json.
    """
    about = config.get("quantization_config")
    if not isinstance(about, Mapping) or about.get("quant_method") != _BITS_AND_BYTES:
        return ""
    return (
        f', which where {_BITS_AND_BYTES} is installed `python -c "import transformers as t; '
        f"t.AutoModelForCausalLM.from_pretrained({path!r}).dequantize()"
        f'.save_pretrained({converted(path)!r})"` does (with `tokenizer: {path}`)'
    )


def _state(model: nn.Module) -> list[tuple[str, Any]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _ignored(model: nn.Module) -> re.Pattern[str] | None:
    """Names that the model's class leaves out of a checkpoint without a word, if any."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns)) if patterns else None


def _is_beside(name: str) -> bool:
    return _BESIDE.fullmatch(name.rpartition(".")[2]) is not None


def _module(name: str) -> str:
    return name.rpartition(".")[0]
