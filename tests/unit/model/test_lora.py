"""LoRA adapters: attributed alone, beside their base, or with a base that is named."""

import io
import json
import pickle
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import RANK, save_adapter
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.errors import ModelError, NumericsError
from rayinfluence.model.identity import model_differences, model_digest, model_identity
from rayinfluence.model.load import assemble, disassemble, load_model
from rayinfluence.model.lora import PATTERNS
from rayinfluence.model.modules import shape_of, track
from rayinfluence.report import render_page
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_run
from rayinfluence.testing.models import VOCABULARY

peft = pytest.importorskip("peft")

TOKENS = torch.arange(12)[None] % VOCABULARY
SETTINGS: dict[str, dict[str, Any]] = {
    "GPT-2": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
    "Llama": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "all layers": {"target_modules": "all-linear"},
    "ranks by layer": {
        "target_modules": ["up_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"up_proj": 7},
        "use_rslora": True,
    },
    "one layer": {"target_modules": ["up_proj"], "layers_to_transform": [1]},
    "the head too": {"target_modules": ["lm_head", "q_proj"]},
    "dropout": {"target_modules": ["up_proj"], "lora_dropout": 0.5},
}


def base_of(name: str) -> nn.Module:
    return tiny_gpt2() if name == "GPT-2" else tiny_llama()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits


def load(adapter: Path, base: Path | None = None, dtype: torch.dtype = torch.float64) -> nn.Module:
    return load_model(
        str(adapter), dtype, base_model=str(base) if base else None, attention="eager"
    )


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter whose base, a Llama, is where it says."""
    model = tiny_llama()
    model.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    settings = SETTINGS["Llama"]
    save_adapter(tmp_path / "adapter", model, base=str(tmp_path / "base"), **settings)
    return tmp_path / "adapter"


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("where", ["beside", "as it says", "as is said"])
def test_an_adapter_s_model_computes_what_peft_s_does(
    tmp_path: Path, name: str, where: str
) -> None:
    model = base_of(name)
    folder, base = tmp_path / "adapter", tmp_path / "base"
    if where == "beside":
        base = folder
    model.save_pretrained(base)  # type: ignore[operator]
    said = {"beside": "acme/hub", "as it says": str(base), "as is said": "acme/hub"}[where]
    theirs = save_adapter(folder, model, base=said, **SETTINGS[name])
    ours = load(folder, base if where == "as is said" else None)
    assert torch.equal(logits(ours), logits(theirs))
    assert not torch.allclose(logits(ours), logits(model))
    assert not any(weight.requires_grad for weight in ours.parameters())
    assert not ours.training
    merged = theirs.merge_and_unload()  # type: ignore[operator]
    merged.save_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(load(tmp_path / "merged")), logits(ours), rtol=0, atol=1e-12)


def test_an_adapter_s_model_goes_to_workers_whole(adapter: Path) -> None:
    model = load(adapter)
    skeleton, weights = pickle.loads(pickle.dumps(disassemble(model)))
    assert torch.equal(logits(assemble(skeleton, weights)), logits(model))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_checks_before_a_run_pass_on_every_layer_that_an_adapter_may_be_on(
    tmp_path: Path, name: str
) -> None:
    """Gradients of A and B are autograd's, and nothing else of the model is tracked."""
    model = base_of(name).float()
    model.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    save_adapter(tmp_path / "adapter", model, base=str(tmp_path / "base"), **SETTINGS[name])
    with run_on(tmp_path / "adapter", tmp_path / "base", tmp_path) as run:
        run.begin()
        assert run.passed.gradients < 1e-4
        assert all(".lora_" in layer for layer in run.replica.modules)
        assert run.tracked.coverage.share == 1.0


def test_an_adapter_has_the_dtype_that_is_asked_for(adapter: Path) -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model = load(adapter, dtype=dtype)
        assert {weight.dtype for weight in model.parameters()} == {dtype}


def test_loading_draws_no_random_number_of_the_caller_s(adapter: Path) -> None:
    state = torch.get_rng_state()
    load(adapter)
    assert torch.equal(state, torch.get_rng_state())


def changed(adapter: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return adapter


def drop(tensors: dict[str, torch.Tensor]) -> None:
    """Of one layer both weights."""
    for name in sorted(tensors)[:2]:
        del tensors[name]


def rename(tensors: dict[str, torch.Tensor]) -> None:
    for one in "AB":
        name = f"base_model.model.model.layers.7.mlp.up_proj.lora_{one}.weight"
        tensors[name] = tensors.pop(min(tensors))


def test_an_adapter_of_another_base_is_refused_with_what_differs(
    adapter: Path, tmp_path: Path
) -> None:
    tiny_gpt2().save_pretrained(tmp_path / "gpt2")  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"is not one of .*gpt2: Target modules .* not found"):
        load(adapter, tmp_path / "gpt2")
    wide = tiny_llama()
    config = wide.config
    config.intermediate_size = 24  # type: ignore[union-attr]
    type(wide)(config).save_pretrained(tmp_path / "wide")  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"down_proj.lora_A.default.weight is \[3, 20\] and would"):
        load(adapter, tmp_path / "wide")
    with pytest.raises(ModelError, match=r"lacks 2 weights .*lora_A.*`base_model`; if that is"):
        load(changed(adapter, drop))


def test_weights_without_a_place_are_named(adapter: Path) -> None:
    with pytest.raises(ModelError, match=r"2 of its weights have no place in it, such as .*\.7\."):
        load(changed(adapter, rename))


def test_an_adapter_that_was_not_trained_is_empty(adapter: Path, tmp_path: Path) -> None:
    settings = SETTINGS["Llama"]
    base = str(tmp_path / "base")
    save_adapter(tmp_path / "new", tiny_llama(), base=base, trained=False, **settings)
    with pytest.raises(ModelError, match=r"is empty: B of all its layers is zero, as before tr"):
        load(tmp_path / "new")


def test_a_weight_of_an_adapter_that_is_not_finite_is_named(adapter: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[min(tensors)][0, 0] = float("nan")

    with pytest.raises(NumericsError, match=r"down_proj\.lora_A\.default\.weight holds NaN"):
        load(changed(adapter, spoil))


def test_a_base_that_is_broken_is_named_and_not_the_links_to_it(tmp_path: Path) -> None:
    model = tiny_llama()
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    save_adapter(tmp_path, model, **SETTINGS["Llama"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ModelError, match="do not belong together") as caught:
        load(tmp_path)
    assert f"the weights of {tmp_path} do not" in str(caught.value)


def test_what_a_model_is_takes_in_its_base_its_adapter_and_its_scale(
    adapter: Path, tmp_path: Path
) -> None:
    first = model_identity(load(adapter))
    assert model_digest(model_identity(load(adapter))) == model_digest(first)
    assert model_digest(model_identity(load(tmp_path / "base"))) != model_digest(first)
    config = json.loads((adapter / "adapter_config.json").read_text())

    def differences() -> str:
        other = model_identity(load(adapter))
        assert model_digest(other) != model_digest(first)
        return "; ".join(model_differences(other, first))

    text = (adapter / "adapter_config.json").read_text()
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 10}))
    assert "config.adapter.model.layers.0.self_attn.q_proj.scaling.default: " in differences()
    (adapter / "adapter_config.json").write_text(text)
    changed(adapter, lambda tensors: tensors[min(tensors)].mul_(2))
    assert "weights: 1 of " in differences()


def run_on(adapter: Path, base: Path, folder: Path, **more: Any) -> Run:
    config = tiny_run(folder, pretrained=tiny_llama(dtype=torch.float32, attention="sdpa"), **more)
    tokenizer = Path(config.model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).write_bytes((tokenizer / name).read_bytes())
    return Run(
        config.model_copy(update={"model": str(adapter)}), ProgressLog(Console(file=io.StringIO()))
    )


def test_a_and_b_are_tracked_by_default_and_all_of_the_adapter_is_covered(
    adapter: Path, tmp_path: Path
) -> None:
    with run_on(adapter, tmp_path / "base", tmp_path) as run:
        run.begin()
        names = list(run.replica.modules)
        assert len(names) == 2 * 2 * 3
        assert all(".lora_A." in name or ".lora_B." in name for name in names)
        assert run.tracked.coverage.share == 1.0
        assert "100.0% of 552 parameters of its adapter are tracked" in run.tracked.line
        assert run.warnings == []


def test_layers_of_the_base_may_be_asked_for(adapter: Path, tmp_path: Path) -> None:
    modules = ["*.mlp.*"]
    with run_on(adapter, tmp_path / "base", tmp_path, modules=modules) as run:
        run.begin()
        assert any(name.endswith("down_proj.base_layer") for name in run.replica.modules)
        assert run.tracked.coverage.share < 1.0


def test_an_adapter_goes_through_a_whole_run(adapter: Path, tmp_path: Path) -> None:
    with run_on(adapter, tmp_path / "base", tmp_path) as run:
        results = run.all()["ekfac"]
    assert results.complete
    assert results.manifest["model"]["path"] == str(adapter)
    assert results.manifest["model"]["base"] == str(tmp_path / "base")
    model = results.manifest["model"]
    assert model["architecture"] == "LlamaForCausalLM"
    assert model["tracked_parameters"] == model["parameters"] - model["frozen_parameters"] == 552
    assert model["untracked"] == {}
    page = render_page({"ekfac": results})
    assert "100% of the adapter&#x27;s parameters (552 of 552), in 12 modules. The " in page
    assert "of its base were frozen when it was trained." in page
    [first] = results.proponents("q0", 1)
    assert all(".lora_" in name for name in first.layer_scores)


def test_a_pickle_of_weights_is_refused_with_a_command_that_converts_it(tmp_path: Path) -> None:
    folder, base = tmp_path / "adapter", tmp_path / "base"
    tiny_llama().save_pretrained(base)
    expected = save_adapter(folder, tiny_llama(), target_modules=["q_proj"])
    stored = folder / "adapter_model.safetensors"
    torch.save(load_file(stored), folder / "adapter_model.bin")
    stored.unlink()
    with pytest.raises(ModelError, match=r"and its adapter_model\.bin is a pickle") as refused:
        load(folder, base)
    [command] = re.findall("`(python -c .*)`", str(refused.value))
    code = shlex.split(command)[2]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
    assert torch.equal(logits(load(folder, base)), logits(expected))


def test_the_head_of_a_base_is_an_embedding_as_others_are(tmp_path: Path) -> None:
    folder, base = tmp_path / "adapter", tmp_path / "base"
    tiny_llama().save_pretrained(base)
    save_adapter(folder, tiny_llama(), target_modules=["lm_head"])
    model, head = load(folder, base), "lm_head.base_layer"
    found = track(model, ["*"])
    assert head not in found
    assert "lm_head.lora_A.default" in found
    named = track(model, [head])
    assert shape_of(head, named[head], model).diagonal == "outputs"


def test_no_factor_of_an_adapter_is_as_wide_as_the_vocabulary(tmp_path: Path) -> None:
    """Its B of the head gives the logits, and is tracked as the head would be."""
    folder, base = tmp_path / "adapter", tmp_path / "base"
    tiny_llama().save_pretrained(base)
    save_adapter(folder, tiny_llama(), target_modules=["lm_head", "down_proj"])
    model = load(folder, base)
    shapes = {
        name: shape_of(name, module, model) for name, module in track(model, list(PATTERNS)).items()
    }
    assert {name for name, shape in shapes.items() if shape.diagonal} == {"lm_head.lora_B.default"}
    assert shapes["lm_head.lora_B.default"].widths == {"inputs": RANK}
    assert all(VOCABULARY not in shape.widths.values() for shape in shapes.values())


def test_what_peft_says_of_its_future_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    folder, base = tmp_path / "adapter", tmp_path / "base"
    tiny_llama().save_pretrained(base)
    save_adapter(folder, tiny_llama(), target_modules=["q_proj"])
    inject = peft.inject_adapter_in_model

    def warning(*args: Any, **kwargs: Any) -> nn.Module:
        warnings.warn("is deprecated", FutureWarning, stacklevel=2)
        return inject(*args, **kwargs)

    monkeypatch.setattr(peft, "inject_adapter_in_model", warning)
    recwarn.clear()
    load(folder, base)
    assert [str(one.message) for one in recwarn if one.category is FutureWarning] == []
