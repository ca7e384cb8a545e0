"""Adapters in a model's folder: LoRA of PEFT is read, the others are refused or told by name.

Nothing here needs torch: what a folder holds is said before that is imported.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayinfluence.addresses import may_be_on_a_hub
from rayinfluence.errors import ModelError
from rayinfluence.model.lora_files import (
    CONFIG,
    LORA,
    PICKLE,
    WEIGHTS,
    conversion,
    is_lora,
    peft_type,
    refuse_more_than_lora,
)
from rayinfluence.model.weight_files import holds_weights
from rayinfluence.storage.downloads import Unusable, read_header, read_json_object
from rayinfluence.storage.store import Store

_KINDS = (
    r"q?lora|dora|loha|lokr|vera|boft|oft|ia3|adapters?|soft_?prompts?|"
    r"(prompt|prefix)_(embeddings|encoder|tuning|learning)"
)
#: Files of PEFT, MLX, diffusers, torchtune, LitGPT and AdapterHub.
_FILE = re.compile(
    rf"(.*[._-])?({_KINDS})([._-].*)?\.(safetensors|bin|pt|pth|ckpt|npz|gguf)", re.IGNORECASE
)
_TENSOR = re.compile(
    rf"(.*[._])?({_KINDS}|hada|trainable_tokens|adaption_(prompt|gate))([._].*|[AB])?"
)
#: PEFT's kinds that are tokens or activations that were learnt, and change no weight.
_PROMPTS = re.compile(r".*PROMPT.*|P_TUNING|PREFIX_TUNING|CPT|.*CARTRIDGE.*")
#: How far below a model's folder adapters are looked for.
_DEPTH = 2
_OR_ALONE = " Or move it out of the folder, to ask about the base model alone."


@dataclass(frozen=True)
class Source:
    """Where a model is read from.

    Attributes:
        weights: the folder with its weights and config.json; of an adapter's model, its base.
        adapter: the folder with the adapter that it has, if it has one; it may be the same.
    """

    weights: str
    adapter: str | None = None


def source_of(model: str, base_model: str | None = None) -> Source:
    """Where a model is read from that may be an adapter's.

    Args:
        model: the folder that was named.
        base_model: the base of the adapter in it, where that was named too.

    Raises:
        ModelError: an adapter is no LoRA of PEFT, or more than that; its base model is not found;
            or a base is named and there is no adapter.
    """
    folder = Path(model)
    found = _adapter_in(folder)
    if found is None:
        if not (folder / "config.json").is_file():
            # PEFT saves adapters that have a name in folders of that name.
            for place in filter(_adapter_in, _folders_in(folder)):
                raise ModelError(
                    f"model: {model} holds no model; an adapter is in {place}: name that folder."
                )
        if base_model is not None:
            raise ModelError(
                f"base_model: there is no adapter in {model} that {base_model} could be the base "
                "of; leave `base_model` out, or name an adapter's folder under `model`."
            )
        return Source(model)
    if not is_lora(folder):
        if found == f"{LORA}, {CONFIG}" and not any(folder.glob("adapter_model*")):
            raise ModelError(
                f"model: {model} holds the {CONFIG} of a LoRA adapter and not its weights: there "
                f"is no {WEIGHTS} in it. Download that too."
                f"{_OR_ALONE if holds_weights(folder) else ''}"
            )
        if found == f"{LORA}, {CONFIG}" and (folder / PICKLE).is_file():
            raise ModelError(
                f"model: {model} holds a LoRA adapter without {WEIGHTS}, and its "
                f"{conversion(model)}.{_OR_ALONE if holds_weights(folder) else ''}"
            )
        raise ModelError(
            f"model: {model} holds an adapter ({found}) that is no LoRA adapter of PEFT, and "
            "others are not read: influence would be that of the base model alone. "
            f"{_advice(folder)}{_OR_ALONE if holds_weights(folder) else ''}"
        )
    named = refuse_more_than_lora(folder, _advice(folder))
    if base_model is None and holds_weights(folder):
        return Source(model, model)
    base = base_model or named
    if base is None or not Path(base).is_dir():
        raise ModelError(
            f"model: {model} holds a LoRA adapter, and its base model ({base or 'unnamed'} in its "
            f"{CONFIG}) is no folder here: name the folder of the model that it was trained on "
            f"under `base_model`{_or_on_a_hub(base)}."
        )
    if Path(base).resolve() == folder.resolve():
        return Source(model, model)
    if other := _adapter_in(Path(base)):
        raise ModelError(
            f"base_model: {base} holds an adapter of its own ({other}); name a folder with "
            "the base model alone."
        )
    return Source(base, model)


def _or_on_a_hub(base: str | None) -> str:
    return f", or hf://{base} if that is where it is" if base and may_be_on_a_hub(base) else ""


def adapters_below(source: Source) -> list[str]:
    """Say of each adapter in the folders of a model's folder that it is not read.

    It may be there on purpose, so it is no error: transformers would not load it either.
    """
    path = source.weights
    places = level = _folders_in(Path(path))
    for _ in range(_DEPTH - 1):
        level = [place for folder in level for place in _folders_in(folder)]
        places = [*places, *level]
    used = Path(source.adapter).resolve() if source.adapter else None
    found = [place for place in places if place.resolve() != used and _adapter_in(place)]
    if not found:
        return []
    names = ", ".join(str(place.relative_to(path)) for place in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [
        f"model: adapters in the folders of {path} ({names}{more}) are not read: scores are of its "
        "own weights alone. If you ask about an adapter's model: where it is LoRA, its folder will "
        f"do under `model`. {_advice(found[0])}"
    ]


def adapter_tensors(names: Collection[str]) -> list[str]:
    """Those of some tensors that by their names are an adapter's."""
    return sorted(name for name in names if _TENSOR.fullmatch(name))


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _adapter_in(place: Path) -> str | None:
    """The file of an adapter in a folder, by its name or by the names of its tensors."""
    names = (
        sorted(file.name for file in place.iterdir() if file.is_file()) if place.is_dir() else []
    )
    named = [name for name in names if _FILE.fullmatch(name)]
    if CONFIG in names:
        kind = peft_type(place)
        return f"{kind}, {CONFIG}" if kind else CONFIG
    if named:
        return named[0]
    for name in names:
        own = name == "model.safetensors" or re.fullmatch(r"model-.*-of-.*\.safetensors", name)
        if name.endswith(".safetensors") and not own and _holds_adapter(place, name):
            return name
    return None


def _holds_adapter(place: Path, name: str) -> bool:
    try:
        return bool(adapter_tensors(read_header(Store(str(place)), name)))
    except Unusable:  # nobody asked for it
        return False


def _advice(place: Path) -> str:
    """What makes a model of an adapter of its kind."""
    try:
        config: dict[str, Any] = read_json_object(Store(str(place)), CONFIG)
    except Unusable:
        config = {}
    kind, merged = config.get("peft_type"), f"{place}-merged"
    if isinstance(kind, str) and _PROMPTS.fullmatch(kind.upper()):
        return f"It is a learnt prompt ({kind}), which cannot be merged into weights."
    if kind is not None:
        return (
            "Merge it (pip install peft): "
            "`from peft import AutoPeftModelForCausalLM as A; A.from_pretrained("
            f"{str(place)!r}).merge_and_unload().save_pretrained({merged!r})`, save the tokenizer "
            "there too, and name that folder."
        )
    is_mlx = "fine_tune_type" in config or "lora_parameters" in config
    if is_mlx or any((place / f"adapters.{kind}").is_file() for kind in ("safetensors", "npz")):
        return (
            f"Merge it (`mlx_lm.fuse --model <base> --adapter-path {place} --save-path {merged}`) "
            "and name that folder."
        )
    return (
        "Merge it into the base model's weights with the library that made it, and name the "
        "merged model's folder."
    )
