"""A model's folder that brings code of its own: model, configuration and tokenizer."""

import json
from pathlib import Path
from typing import Any

FILES = {
    "configuration_own.py": """
from transformers import GPT2Config

class OwnConfig(GPT2Config):
    model_type = "own"
""",
    "modeling_own.py": """
import threading

from transformers import GPT2LMHeadModel

from .configuration_own import OwnConfig

LOCK = threading.Lock()  # as modules have that cannot be pickled

class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig

    def forward(self, *arguments, **options):
        with LOCK:
            return super().forward(*arguments, **options)
""",
    "tokenization_own.py": """
from transformers import PreTrainedTokenizerFast

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
""",
}


def bring_code(model: Path) -> None:
    """Let the GPT-2 in a folder, and its tokenizer, be of classes that the folder defines."""
    for name, text in FILES.items():
        (model / name).write_text(text)
    _change(
        model / "config.json",
        model_type="own",
        architectures=["OwnModel"],
        auto_map={
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnModel",
        },
    )
    _change(
        model / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    )


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
