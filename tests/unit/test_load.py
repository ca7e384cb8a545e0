import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rayinfluence.errors import ModelError, NumericsError
from rayinfluence.model.load import (
    assemble,
    context_length,
    disassemble,
    load_model,
    model_digest,
    vocabulary_size,
)
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_mlp


@pytest.fixture(params=[tiny_gpt2, tiny_llama])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    request.param(dtype=torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    tiny_gpt2(dtype=torch.float32).save_pretrained(tmp_path / "model")  # type: ignore[operator]
    return tmp_path / "model"


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def save(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path | str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return load_model(str(folder), dtype)


def test_a_saved_model_is_loaded_frozen_and_in_eval_mode(folder: Path) -> None:
    model = load(folder)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert vocabulary_size(model) == 48
    assert context_length(model) == 16
    saved = weights(folder)
    assert all(torch.equal(w, saved[n]) for n, w in model.named_parameters() if n in saved)
    assert {w.dtype for w in load(folder, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_a_module_of_any_kind_has_no_limits_that_we_know() -> None:
    assert vocabulary_size(tiny_mlp()) is None
    assert context_length(tiny_mlp()) is None


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "s3://bucket/model"])
def test_what_is_no_model_folder_is_refused(path: str) -> None:
    with pytest.raises(ModelError, match=r"model: .* is not a folder with a config\.json"):
        load(path)


def test_a_config_without_weights_is_refused(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded: .*model\.safetensors"):
        load(gpt2)


def test_pickled_weights_are_not_opened(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(weights(gpt2), gpt2 / "pytorch_model.bin")
    (gpt2 / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(ModelError, match=r"cannot be loaded: .*model\.safetensors"):
        load(gpt2)


@pytest.mark.parametrize("name", ["transformer.h.1.mlp.c_fc.weight", "transformer.wte.weight"])
def test_a_checkpoint_without_one_tensor_is_refused_by_its_name(gpt2: Path, name: str) -> None:
    tensors = weights(gpt2)
    del tensors[name]
    save(gpt2, tensors)
    with pytest.raises(ModelError, match=r"is incomplete: \d weights are missing, such as") as e:
        load(gpt2)
    assert name in str(e.value) or "lm_head" in str(e.value)  # tied: either name is right


def test_a_tensor_of_another_shape_is_refused(gpt2: Path) -> None:
    save(gpt2, weights(gpt2) | {"transformer.h.1.mlp.c_fc.weight": torch.zeros(3, 3)})
    with pytest.raises(ModelError, match="model: "):
        load(gpt2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named(gpt2: Path, value: float) -> None:
    tensors = weights(gpt2)
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 2] = value
    save(gpt2, tensors)
    with pytest.raises(NumericsError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight holds NaN"):
        load(gpt2)


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_truncated_weights_are_refused(gpt2: Path, keep: int) -> None:
    path = gpt2 / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=f"model: {gpt2} cannot be loaded"):
        load(gpt2)


@pytest.mark.parametrize("body", ["", "{", "[]", '{"model_type": "no such model"}'])
def test_a_config_that_is_none_is_refused(gpt2: Path, body: str) -> None:
    (gpt2 / "config.json").write_text(body)
    with pytest.raises(ModelError, match=f"model: {gpt2} cannot be loaded"):
        load(gpt2)


def test_code_in_the_folder_does_not_run_unless_it_is_trusted(gpt2: Path) -> None:
    config = json.loads((gpt2 / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "ours.Config",
        "AutoModelForCausalLM": "ours.Model",
    }
    (gpt2 / "config.json").write_text(json.dumps(config | {"model_type": "ours"}))
    (gpt2 / "ours.py").write_text("raise SystemExit('their code ran')")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load(gpt2)


def test_a_model_is_known_by_its_weights_and_not_by_its_folder(gpt2: Path, tmp_path: Path) -> None:
    shutil.copytree(gpt2, tmp_path / "copy")
    assert model_digest(load(tmp_path / "copy")) == model_digest(load(gpt2))
    assert model_digest(load(gpt2, torch.float64)) != model_digest(load(gpt2))


@pytest.mark.parametrize("name", ["transformer.h.0.mlp.c_fc.weight", "transformer.ln_f.bias"])
def test_one_changed_weight_makes_another_model(gpt2: Path, name: str) -> None:
    before = model_digest(load(gpt2))
    tensors = weights(gpt2)
    tensors[name].view(-1)[-1] = torch.nextafter(tensors[name].view(-1)[-1], torch.tensor(9e9))
    save(gpt2, tensors)
    assert model_digest(load(gpt2)) != before


def test_another_architecture_of_the_same_weights_makes_another_model(gpt2: Path) -> None:
    before = model_digest(load(gpt2))
    config = json.loads((gpt2 / "config.json").read_text())
    (gpt2 / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    assert model_digest(load(gpt2)) != before


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, tiny_mlp])
def test_a_model_that_is_taken_apart_and_put_together_is_the_same(make: object) -> None:
    model = make(dtype=torch.float32)  # type: ignore[operator]
    skeleton, tensors = disassemble(model)
    assert all(weight.is_meta for weight in skeleton.parameters())
    assert not any(weight.is_meta for weight in model.parameters())
    again = assemble(skeleton, tensors, torch.device("cpu"))
    assert model_digest(again) == model_digest(model)
    pointers = {name: weight.data_ptr() for name, weight in again.named_parameters()}
    assert pointers == {name: tensor.data_ptr() for name, tensor in tensors.items()}  # no copy
    tokens = torch.tensor([[1, 2, 3]])
    ours, theirs = again(tokens), model(tokens)
    ours, theirs = getattr(ours, "logits", ours), getattr(theirs, "logits", theirs)
    assert torch.equal(ours, theirs)


def test_tied_weights_stay_tied() -> None:
    skeleton, tensors = disassemble(tiny_gpt2())
    again = assemble(skeleton, tensors, torch.device("cpu"))
    assert again.lm_head.weight is again.transformer.wte.weight


def test_loaded_weights_are_aligned(tmp_path: Path) -> None:
    """As those are that replicas share: kernels round by the alignment of their operands."""
    tiny_gpt2(dtype=torch.float32).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), torch.float32)
    assert {weight.data_ptr() % 64 for weight in loaded.parameters()} == {0}
