"""Names of weights tell what they were saved within."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rayinfluence.errors import ModelError
from rayinfluence.model.load import load_model
from rayinfluence.testing import tiny_gpt2, tiny_llama

Weights = dict[str, Tensor]


def save(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    tensors = {name: weight.clone() for name, weight in load_file(file).items()}
    save_file(change(tensors), file, metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        load_model(str(folder), torch.float32)
    return str(error.value)


def head(name: str) -> Weights:
    return {f"{name}.weight": torch.ones(1, 12), f"{name}.bias": torch.ones(1)}


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
@pytest.mark.parametrize(
    ("prefix", "who", "advice"),
    [
        ("_orig_mod.", "torch.compile", "model._orig_mod.save_pretrained"),
        ("module.", "DDP, DataParallel or DeepSpeed", "model.module.save_pretrained"),
        ("module._orig_mod.", "torch.compile and DDP", "model.module.save_pretrained"),
        ("_orig_mod.module.", "torch.compile and DDP", "model.module.save_pretrained"),
        ("_fsdp_wrapped_module.", "FSDP", "Accelerator.get_state_dict"),
        ("base_model.model.", "PEFT", "merge_and_unload"),
        ("pretrained_model.", "TRL's model with a head", "model.pretrained_model.save_pretrained"),
    ],
)
def test_a_prefix_of_a_wrapper_is_named_with_what_is_inside(
    tmp_path: Path, make: Callable[..., torch.nn.Module], prefix: str, who: str, advice: str
) -> None:
    make(dtype=torch.float32).save_pretrained(tmp_path)  # type: ignore[operator]
    save(tmp_path, lambda weights: {f"{prefix}{n}": weight for n, weight in weights.items()})
    said = refusal(tmp_path)
    assert f"were saved within {who}" in said
    assert advice in said
    first = "transformer.h.0.attn.c_attn.weight" if make is tiny_gpt2 else "lm_head.weight"
    assert f"names are as {prefix}{first}, which the model calls {first}." in said


@pytest.mark.parametrize(
    "part", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."]
)
def test_a_part_of_a_model_that_was_wrapped_is_told_too(tmp_path: Path, part: str) -> None:
    tiny_llama(dtype=torch.float32).save_pretrained(tmp_path)  # type: ignore[operator]
    save(
        tmp_path, lambda ws: {n.replace("layers.0.", f"layers.0.{part}"): w for n, w in ws.items()}
    )
    said = refusal(tmp_path)
    assert f"model.layers.0.{part}input_layernorm.weight, which the model calls model.lay" in said


def test_a_prefix_that_nobody_knows_is_told_as_such(tmp_path: Path) -> None:
    tiny_gpt2(dtype=torch.float32).save_pretrained(tmp_path)  # type: ignore[operator]
    save(tmp_path, lambda weights: {f"policy.{n}": weight for n, weight in weights.items()})
    assert "have names that begin with 'policy.', such as policy.transformer.h.0" in refusal(
        tmp_path
    )


@pytest.mark.parametrize("name", ["v_head.summary", "value_head", "score"])
def test_a_head_of_values_is_named_as_one(tmp_path: Path, name: str) -> None:
    tiny_llama(dtype=torch.float32).save_pretrained(tmp_path)  # type: ignore[operator]
    save(tmp_path, lambda weights: weights | head(name))
    assert f"have a head beside the language model, such as {name}.bias" in refusal(tmp_path)


def test_what_the_names_do_not_tell_is_not_guessed_at(tmp_path: Path) -> None:
    """A layer that is missing explains nothing of what is left over."""
    tiny_llama(dtype=torch.float32).save_pretrained(tmp_path)  # type: ignore[operator]

    def spoil(weights: Weights) -> Weights:
        del weights["model.norm.weight"]
        return weights | {"module.other.weight": torch.ones(2)} | head("v_head")

    save(tmp_path, spoil)
    said = refusal(tmp_path)
    assert "1 weights are missing, such as model.norm.weight; 3 weights are in the files" in said
