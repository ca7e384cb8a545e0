"""Adapters in a model's folder that are not read: refused, or told where they may be left out."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ModelError
from rayinfluence.model.adapters import Source, adapters_below
from rayinfluence.model.load import load_model
from rayinfluence.testing import tiny_gpt2, tiny_run

LORA = {f"transformer.h.0.attn.c_attn.lora_{one}.weight": torch.zeros(2, 2) for one in "AB"}
PEFT = {"peft_type": "LORA", "base_model_name_or_path": "base"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_gpt2(dtype=torch.float32).save_pretrained(tmp_path / "model")  # type: ignore[operator]
    return tmp_path / "model"


def lay(place: Path, name: str, config: dict[str, Any] | None = None) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if name.endswith(".safetensors"):
        save_file(LORA, place / name)
    else:
        (place / name).write_bytes(b"...")
    if config is not None:
        (place / "adapter_config.json").write_text(json.dumps(config))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError, match="adapter") as caught:
        load_model(str(folder), torch.float32)
    return str(caught.value)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"use_dora": True}, "use_dora: True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: ['lm_head']"),
        ({"bias": "all"}, "bias: all"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: pissa_niter_4"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices: [1]"),
        ({"something_new": {"a": 1}}, "something_new: {'a': 1}"),
    ],
)
def test_an_adapter_that_is_more_than_lora_is_refused_with_the_command_that_merges_it(
    folder: Path, alone: bool, more: dict[str, Any], what: str
) -> None:
    if alone:
        for file in folder.iterdir():
            file.unlink()
    lay(folder, "adapter_model.safetensors", PEFT | more)
    said = refusal(folder)
    assert f"is more than a LoRA of linear layers ({what}), and such are not read" in said
    assert f"from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained(" in said


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector",
        "base_model.model.lm_head.weight",
    ],
)
def test_weights_of_an_adapter_that_are_no_update_of_a_linear_layer_are_named(
    folder: Path, name: str
) -> None:
    lay(folder, "adapter_model.safetensors", PEFT)
    save_file(LORA | {name: torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    assert f"linear layers (it has the weight {name})" in refusal(folder)


@pytest.mark.parametrize("kind", ["IA3", "ADALORA", "LOHA", "OFT", "VERA"])
def test_adapters_of_other_kinds_are_refused_by_what_they_are(folder: Path, kind: str) -> None:
    lay(folder, "adapter_model.safetensors", PEFT | {"peft_type": kind})
    said = refusal(folder)
    assert f"holds an adapter ({kind}, adapter_config.json) that is no LoRA adapter of PEFT" in said
    assert "merge_and_unload()" in said
    assert "Or move it out of the folder, to ask about the base model alone." in said


def test_a_folder_of_adapters_with_names_asks_for_one_of_them(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    lay(folder / "taught", "adapter_model.safetensors", PEFT)
    assert f"an adapter is in {folder / 'taught'}: name that folder" in refusal(folder)


def test_without_the_package_peft_an_adapter_is_refused_with_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(folder, "adapter_model.safetensors", PEFT)
    monkeypatch.setattr("rayinfluence.model.lora_files.find_spec", lambda name: None)
    said = refusal(folder)
    assert "is read with the package peft, which is not installed: pip install 'rayinf" in said
    assert "merge_and_unload()" in said


@pytest.mark.parametrize("named", ["acme/base-7b", None])
def test_a_base_model_that_is_not_here_is_asked_for(
    folder: Path, tmp_path: Path, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayinfluence.model.lora_files.find_spec", lambda name: True)
    adapter = tmp_path / "adapter"
    lay(adapter, "adapter_model.safetensors", PEFT | {"base_model_name_or_path": named})
    said = refusal(adapter)
    assert f"its base model ({named or 'unnamed'} in its adapter_config.json) is no folder" in said
    assert "under `base_model`" in said


def test_a_base_without_an_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^base_model: there is no adapter in .* leave `base_m"):
        load_model(str(folder), torch.float32, base_model=str(tmp_path))


def test_a_base_with_an_adapter_of_its_own_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayinfluence.model.lora_files.find_spec", lambda name: True)
    for place in (folder, tmp_path / "adapter"):
        lay(place, "adapter_model.safetensors", PEFT)
    with pytest.raises(ModelError, match=r"^base_model: .* holds an adapter of its own \(LORA"):
        load_model(str(tmp_path / "adapter"), torch.float32, base_model=str(folder))


def test_a_cut_adapter_is_told_before_anything_is_loaded(folder: Path) -> None:
    lay(folder, "adapter_model.safetensors", PEFT)
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[:-4])
    assert "adapter_model.safetensors is cut short" in refusal(folder)


@pytest.mark.parametrize("alone", [True, False])
def test_half_a_download_of_an_adapter_is_told_with_what_is_missing(
    folder: Path, alone: bool
) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(PEFT))
    if alone:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").unlink()
    said = refusal(folder)
    assert "there is no adapter_model.safetensors in it. Download that too." in said
    assert "Merge" not in said
    assert ("Or move it out of the folder" in said) is not alone


@pytest.mark.parametrize("half", ["A", "B"])
def test_a_layer_of_an_adapter_with_half_its_weights_is_named(folder: Path, half: str) -> None:
    lay(folder, "adapter_model.safetensors", PEFT)
    layers = [f"base_model.model.transformer.h.{n}.attn.c_attn.lora_" for n in range(3)]
    whole = {f"{layer}{one}.weight": torch.ones(2, 2) for layer in layers for one in "AB"}
    for layer in layers[1:]:
        del whole[f"{layer}{half}.weight"]
    save_file(whole, folder / "adapter_model.safetensors")
    said, other = refusal(folder), "AB".replace(half, "")
    assert f"h.1.attn.c_attn.lora_{other}.weight and no lora_{half}.weight beside it" in said
    assert "(and so in 1 more layers)" in said
    assert "Save or download the adapter again." in said


def test_an_adapter_without_weights_is_empty(folder: Path) -> None:
    lay(folder, "adapter_model.safetensors", PEFT)
    save_file({}, folder / "adapter_model.safetensors")
    assert "is empty: adapter_model.safetensors holds no weight" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    [
        "adapters.safetensors",
        "adapters.npz",
        "adapter_model.bin",
        "adapter_model.safetensors",
        "adapter_0.pt",
        "pytorch_lora_weights.safetensors",
        "pytorch_lora_weights.bin",
        "pytorch_adapter.bin",
        "lit_model.pth.lora.pth",
        "my-model-lora.safetensors",
        "prompt_embeddings.pt",
        "prefix_encoder.bin",
        "ia3.safetensors",
    ],
)
def test_an_adapter_beside_the_model_is_refused_by_the_name_of_its_file(
    folder: Path, name: str
) -> None:
    lay(folder, name)
    assert f"holds an adapter ({name}) that is no LoRA adapter of PEFT" in refusal(folder)


def test_an_adapter_of_any_file_name_is_known_by_its_tensors(folder: Path) -> None:
    lay(folder, "taught-in-may.safetensors")
    assert "holds an adapter (taught-in-may.safetensors)" in refusal(folder)


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        ({"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}, "`mlx_lm.fuse --model"),
        (None, "`mlx_lm.fuse --model"),
        ({"peft_type": "PROMPT_TUNING"}, "a learnt prompt (PROMPT_TUNING), which cannot be merged"),
        ({"peft_type": "PREFIX_TUNING"}, "a learnt prompt (PREFIX_TUNING), which cannot be merged"),
        ({"peft_type": "P_TUNING"}, "a learnt prompt (P_TUNING), which cannot be merged"),
    ],
)
def test_what_to_do_about_an_adapter_is_said_for_its_kind(
    folder: Path, config: dict[str, Any] | None, advice: str
) -> None:
    lay(folder, "adapters.safetensors", config)
    assert advice in refusal(folder)


def test_an_adapter_that_is_not_merged_in_the_weights_is_called_so(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | LORA, folder / "model.safetensors", metadata={"format": "pt"})
    said = refusal(folder)
    assert f"hold an adapter that is not merged, such as {next(iter(LORA))}" in said


@pytest.mark.parametrize("place", ["lora", "checkpoint-100", "runs/second"])
def test_an_adapter_in_a_folder_of_the_model_s_is_told_and_does_not_stop_a_run(
    folder: Path, place: str
) -> None:
    lay(folder / place, "adapter_model.safetensors", PEFT)
    load_model(str(folder), torch.float32)
    [said] = adapters_below(Source(str(folder)))
    assert f"adapters in the folders of {folder} ({place}) are not read" in said
    assert "where it is LoRA, its folder will do under `model`. " in said
    assert f"from_pretrained({str(folder / place)!r})" in said


def test_folders_that_hold_no_adapter_need_no_word(folder: Path) -> None:
    lay(folder / "original", "consolidated.pth")
    lay(folder / ".cache", "adapter_model.bin")
    tiny_gpt2(dtype=torch.float32).save_pretrained(folder / "checkpoint-1")  # type: ignore[operator]
    for name in ("training_args.bin", "optimizer.pt", "exploration.pt", "README.md"):
        lay(folder, name)
    assert adapters_below(Source(str(folder))) == []
    load_model(str(folder), torch.float32)


def test_a_run_warns_of_adapters_in_the_model_s_folder(tmp_path: Path) -> None:
    config = tiny_run(tmp_path)
    for i in range(4):
        lay(Path(config.model) / f"checkpoint-{i}", "adapter_model.bin")
    said = io.StringIO()
    with Run(config, ProgressLog(Console(file=said, width=1000))) as run:
        run.begin()
    [warning] = run.warnings
    assert "(checkpoint-0, checkpoint-1, checkpoint-2 and 1 more) are not read" in warning
    assert f"warning: {warning}" in said.getvalue()
