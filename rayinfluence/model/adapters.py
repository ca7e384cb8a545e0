"""Adapters (LoRA and the like) in a model's folder: not read yet, so refused by name."""

from __future__ import annotations

from pathlib import Path

from rayinfluence.errors import ModelError

_FILES = ("adapter_config.json", "adapter_model.*")


def refuse_adapter(path: str) -> None:
    """Refuse a folder that holds a PEFT adapter, alone or beside its base model.

    Without the package peft transformers loads the base model and says nothing; with it, layers
    become such as are tracked in part. Neither is what the adapter's owner asks about.

    Raises:
        ModelError: names the adapter and the command that merges it.
    """
    folder = Path(path)
    places = [folder]
    if not (folder / "config.json").is_file() and folder.is_dir():
        # PEFT saves adapters that have a name in folders of that name.
        places += sorted(place for place in folder.iterdir() if place.is_dir())
    for place in places:
        merged = f"{place}-merged"
        found = [file.name for pattern in _FILES for file in sorted(place.glob(pattern))]
        if found:
            raise ModelError(
                f"model: {place} holds an adapter ({found[0]}), and adapters are not read yet: "
                "influence would be that of the base model alone. Merge it (pip install peft): "
                "`from peft import AutoPeftModelForCausalLM as A; A.from_pretrained("
                f"{str(place)!r}).merge_and_unload().save_pretrained({merged!r})`, save "
                " the tokenizer there too, and name that folder."
            )
