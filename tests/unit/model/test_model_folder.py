"""A model's folder that names one thing and holds another is not loaded in silence."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ModelError
from rayinfluence.model.load import load_model
from rayinfluence.model.weight_files import stored_tensors
from rayinfluence.testing import tiny_gpt2, tiny_run

Change = Callable[..., RunConfig]

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
WEIGHT = "transformer.h.0.mlp.c_fc.weight"
CODE = """
from transformers import GPT2LMHeadModel

class Mine(GPT2LMHeadModel):
    pass
"""


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A model in two files; every second tensor is in the second."""
    folder = tmp_path / "model"
    tiny_gpt2(dtype=torch.float32).save_pretrained(folder)  # type: ignore[operator]
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: SHARDS[i % 2] for i, name in enumerate(sorted(tensors))}
    for shard in SHARDS:
        own = {name: tensors[name] for name, place in places.items() if place == shard}
        save_file(own, folder / shard, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def place_of(folder: Path) -> tuple[str, str]:
    """The file that the index names for a weight, and the other."""
    named = json.loads((folder / INDEX).read_text())["weight_map"][WEIGHT]
    return named, next(shard for shard in SHARDS if shard != named)


def test_a_model_in_pieces_is_loaded(shards: Path) -> None:
    assert WEIGHT in stored_tensors(str(shards))
    load_model(str(shards), torch.float32)


def test_a_tensor_in_two_files_is_refused_with_both(shards: Path) -> None:
    named, other = place_of(shards)
    twice = load_file(shards / named)[WEIGHT] * 2
    held = load_file(shards / other)
    save_file(held | {WEIGHT: twice}, shards / other, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"holds {WEIGHT} in {SHARDS[0]} and in {SHARDS[1]}"):
        load_model(str(shards), torch.float32)


def test_a_tensor_in_another_file_than_the_index_says_is_refused(shards: Path) -> None:
    named, other = place_of(shards)
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"][WEIGHT] = other
    (shards / INDEX).write_text(json.dumps(index))
    with pytest.raises(
        ModelError, match=rf"says that {WEIGHT} is in {other}, and it is in {named}"
    ):
        load_model(str(shards), torch.float32)


def warnings_of(config: RunConfig, **changes: Any) -> list[str]:
    path = Path(config.model) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.begin()
    return run.warnings


def test_a_model_s_own_code_that_is_not_run_is_a_warning(tmp_path: Path, change: Change) -> None:
    config = tiny_run(tmp_path)
    (Path(config.model) / "modeling_mine.py").write_text(CODE)
    named = {
        "auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"},
        "architectures": ["Mine"],
    }
    [warning] = warnings_of(config, **named)
    assert "names Python code of its own under auto_map (modeling_mine.Mine)" in warning
    assert "GPT2LMHeadModel of transformers was loaded instead" in warning
    assert "set `trust_remote_code: true`" in warning
    assert not warnings_of(change(config, trust_remote_code=True, run=str(tmp_path / "trusts")))


@pytest.mark.parametrize("named", ["MambaForCausalLM", "LlamaBidirectionalModel"])
def test_a_class_that_is_named_and_not_loaded_is_a_warning(tmp_path: Path, named: str) -> None:
    [warning] = warnings_of(tiny_run(tmp_path), architectures=[named])
    assert f"names {named} under architectures, and GPT2LMHeadModel is what was loaded" in warning


@pytest.mark.parametrize("named", [["GPT2LMHeadModel"], [], None])
def test_a_class_that_was_loaded_or_is_not_named_is_no_warning(tmp_path: Path, named: Any) -> None:
    assert not warnings_of(tiny_run(tmp_path), architectures=named)
