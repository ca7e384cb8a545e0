"""The weights that run are those of the files, whatever a class does to them while it is loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import MambaConfig, MambaForCausalLM, MixtralForCausalLM, PreTrainedModel

from rayinfluence.errors import ModelError
from rayinfluence.model.as_stored import as_stored
from rayinfluence.model.load import load_model
from rayinfluence.testing import tiny_llama, tiny_mixtral
from rayinfluence.testing.models import CONTEXT, VOCABULARY

Initialise = Callable[[PreTrainedModel, nn.Module], None]


def saved(model: nn.Module, folder: Path) -> str:
    model.save_pretrained(folder / "model")  # type: ignore[operator]
    return str(folder / "model")


def initialising(monkeypatch: pytest.MonkeyPatch, change: Callable[[nn.Module], None]) -> None:
    """Let classes change what their modules hold when they are initialised."""
    own: Initialise = PreTrainedModel._init_weights

    def changed(self: PreTrainedModel, module: nn.Module) -> None:
        own(self, module)
        change(module)

    monkeypatch.setattr(PreTrainedModel, "_init_weights", changed)


def stacked(dtype: torch.dtype) -> nn.Module:
    """With experts that are apart in its files and one parameter in the model."""
    return MixtralForCausalLM(tiny_mixtral().config).to(dtype)


def halve(module: nn.Module) -> None:
    for weight in module.parameters(recurse=False):
        weight.data.mul_(0.5)


def test_a_mamba_that_scales_its_weights_when_made_runs_with_those_of_its_file(
    tmp_path: Path,
) -> None:
    config = MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=2,
        state_size=4,
        rescale_prenorm_residual=True,
    )
    trained = MambaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(torch.arange(weight.numel()).view(weight.shape) % 7 / 50)
    folder = saved(trained, tmp_path)
    model = load_model(folder, torch.float32)
    stored = load_file(Path(folder) / "model.safetensors")
    assert sum("out_proj" in name for name in stored) == 2
    for name, weight in model.named_parameters():
        assert torch.equal(weight, stored[name]), name
    tokens = torch.arange(CONTEXT)[None] % VOCABULARY
    assert torch.equal(model(tokens).logits, trained(tokens).logits)


@pytest.mark.parametrize("make", [tiny_llama, stacked])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_that_are_cast_stacked_or_tied_are_put_back(
    make: Callable[..., nn.Module],
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = saved(make(dtype=torch.float32), tmp_path)
    expected = load_model(folder, dtype)
    initialising(monkeypatch, halve)
    model = load_model(folder, dtype)
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in expected.named_parameters()
    ]
    for name, weight in model.named_parameters():
        assert torch.equal(weight, expected.get_parameter(name)), name


def test_weights_that_their_class_exchanges_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(torch.zeros_like(module.weight))

    folder = saved(tiny_llama(dtype=torch.float32), tmp_path)
    expected = load_model(folder, torch.float32)
    initialising(monkeypatch, exchange)
    model = load_model(folder, torch.float32)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, expected.get_parameter(name)), name


def test_two_weights_of_the_files_that_the_model_holds_as_one_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(module: nn.Module) -> None:
        if hasattr(module, "up_proj"):
            module.up_proj.weight = module.gate_proj.weight

    folder = saved(tiny_llama(dtype=torch.float32), tmp_path)
    initialising(monkeypatch, share)
    with pytest.raises(ModelError, match=r"others in the model than in its files") as error:
        load_model(folder, torch.float32)
    assert "layers.0.mlp." in str(error.value)


def test_a_release_that_gives_weights_unseen_is_refused() -> None:
    def loading() -> tuple[nn.Module, dict[str, set[str]]]:
        return nn.Linear(2, 2), {"missing_keys": set()}

    with pytest.raises(ModelError, match="this release of transformers"):
        as_stored("folder", loading)


def test_a_model_that_nothing_changes_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rayinfluence.model.load as ours

    calls, own = [], ours.from_pretrained
    monkeypatch.setattr(ours, "from_pretrained", lambda *a: (calls.append(a), own(*a))[1])
    folder = saved(tiny_llama(dtype=torch.float32), tmp_path)
    load_model(folder, torch.float32)
    assert len(calls) == 1
