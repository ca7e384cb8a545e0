"""LoRA adapters as PEFT saves them, of random weights; tests that use them need that package."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

RANK = 3


def save_adapter(
    folder: Path, model: nn.Module, base: str | None = None, trained: bool = True, **settings: Any
) -> nn.Module:
    """Save an adapter of a model, and give the model with it as PEFT has it.

    Args:
        folder: where.
        model: which stays as it is.
        base: what the adapter's configuration calls it.
        trained: whether B is random too; it is zero before training.
        settings: of PEFT.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(**{"r": RANK, "lora_alpha": 5, "task_type": "CAUSAL_LM"} | settings)
    adapted = get_peft_model(copy.deepcopy(model), config, autocast_adapter_dtype=False)
    for name, weight in adapted.named_parameters():
        if trained and ".lora_" in name:
            weight.data = 0.3 * torch.randn_like(weight)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    config_file = folder / "adapter_config.json"
    said = json.loads(config_file.read_text()) | {"base_model_name_or_path": base}
    config_file.write_text(json.dumps(said))
    return adapted.eval()
