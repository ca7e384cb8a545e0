"""Adapters (LoRA and the like) in a model's folder: not read yet, so refused or told by name."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rayinfluence.errors import ModelError
from rayinfluence.storage.downloads import Unusable, read_header, read_json_object
from rayinfluence.storage.store import Store

_CONFIG = "adapter_config.json"
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


def refuse_adapter(path: str) -> None:
    """Refuse a folder that holds an adapter, alone or beside its base model.

    Without the package peft transformers loads the base model and says nothing; with it, layers
    become such as are tracked in part. Neither is what the adapter's owner asks about.

    Raises:
        ModelError: names the adapter and what merges it.
    """
    folder = Path(path)
    places = [folder]
    if not (folder / "config.json").is_file():
        # PEFT saves adapters that have a name in folders of that name.
        places += _folders_in(folder)
    for place in places:
        if found := _adapter_in(place):
            beside = (
                " Or move it out of the folder, to ask about the base model alone."
                if (folder / "config.json").is_file()
                else ""
            )
            raise ModelError(
                f"model: {place} holds an adapter ({found}), and adapters are not read yet: "
                f"influence would be that of the base model alone. {_advice(place)}{beside}"
            )


def adapters_below(path: str) -> list[str]:
    """Say of each adapter in the folders of a model's folder that it is not read.

    It may be there on purpose, so it is no error: transformers would not load it either.
    """
    places = level = _folders_in(Path(path))
    for _ in range(_DEPTH - 1):
        level = [place for folder in level for place in _folders_in(folder)]
        places = [*places, *level]
    found = [place for place in places if _adapter_in(place)]
    if not found:
        return []
    names = ", ".join(str(place.relative_to(path)) for place in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return [
        f"model: adapters in the folders of {path} ({names}{more}) are not read: scores are of its "
        f"own weights alone. If you ask about an adapter's model: {_advice(found[0])}"
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
    if _CONFIG in names or named:
        return _CONFIG if _CONFIG in names else named[0]
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
        config: dict[str, Any] = read_json_object(Store(str(place)), _CONFIG)
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
