"""Checkpoints of quantised weights, which are another model when they are read as they are."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.load import check_finite, load_model
from rayinfluence.model.quantised import quantised
from rayinfluence.storage.downloads import StoredTensor
from rayinfluence.testing import tiny_llama

UP = "model.layers.0.mlp.up_proj"
FP8 = {"quant_method": "fp8", "weight_block_size": [4, 4]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_llama(dtype=torch.float32).save_pretrained(tmp_path / "model")  # type: ignore[operator]
    return tmp_path / "model"


def weights(folder: Path) -> dict[str, Tensor]:
    return {
        name: weight.clone() for name, weight in load_file(folder / "model.safetensors").items()
    }


def save(folder: Path, tensors: dict[str, Tensor], **config: Any) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | config))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError, match="holds quantised weights") as caught:
        load_model(str(folder), torch.float32)
    assert "Name the model that was quantised, or dequantise it" in str(caught.value)
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.int16, "I16"),
        (torch.int32, "I32"),
        (torch.int64, "I64"),
        (torch.bool, "BOOL"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
    ],
)
@pytest.mark.parametrize("which", ["one layer", "the embedding", "a norm"])
def test_weights_of_integers_or_of_eight_bits_are_refused_by_name(
    folder: Path, dtype: torch.dtype, name: str, which: str
) -> None:
    tensors = weights(folder)
    of = {
        "one layer": f"{UP}.weight",
        "the embedding": "model.embed_tokens.weight",
        "a norm": "model.norm.weight",
    }[which]
    save(folder, tensors | {of: tensors[of].to(dtype)})
    assert f"a tensor, such as {of} ({name})" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_any_full_precision_are_loaded(folder: Path, dtype: torch.dtype) -> None:
    save(folder, {name: weight.to(dtype) for name, weight in weights(folder).items()})
    load_model(str(folder), torch.float32)


@pytest.mark.parametrize("stored", ["F4", "F6_E2M3", "F8_E8M0", "F8_E4M3FNUZ"])
def test_types_that_torch_has_no_numbers_for_are_refused_by_name(folder: Path, stored: str) -> None:
    path = folder / "model.safetensors"
    body = path.read_bytes()
    (length,) = struct.unpack("<Q", body[:8])
    header = json.loads(body[8 : 8 + length])
    about = header[f"{UP}.weight"]
    start, end = about["data_offsets"]
    bits = int(stored[1])
    about |= {"dtype": stored, "shape": [(end - start) * 8 // bits // 16, 16]}
    changed = json.dumps(header).encode()
    changed += b" " * (-len(changed) % 8)
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + body[8 + length :])
    assert f"{UP}.weight" in refusal(folder)


@pytest.mark.parametrize(
    "beside",
    [
        "weight_scale",
        "weight_scale_inv",
        "input_scale",
        "scales",
        "qweight",
        "qzeros",
        "zeros",
        "g_idx",
        "weight_packed",
        "weight.absmax",
        "weight.quant_state.bitsandbytes__nf4",
        "SCB",
    ],
)
def test_what_lies_beside_quantised_weights_gives_them_away(folder: Path, beside: str) -> None:
    save(folder, weights(folder) | {f"{UP}.{beside}": torch.ones(2)})
    assert f"{UP}.{beside} (F32)" in refusal(folder)


def test_packed_weights_are_called_quantised_and_not_missing(folder: Path) -> None:
    tensors = weights(folder)
    packed = tensors.pop(f"{UP}.weight").to(torch.int32)[:2].clone()
    save(folder, tensors | {f"{UP}.qweight": packed, f"{UP}.scales": torch.ones(1)})
    assert f"{UP}.qweight (I32)" in refusal(folder)


@pytest.mark.parametrize("method", ["fp8", "modelopt"])
def test_a_configuration_without_scales_dequantises_nothing(folder: Path, method: str) -> None:
    tensors = weights(folder)
    eight = {f"{UP}.weight": tensors[f"{UP}.weight"].to(torch.float8_e4m3fn)}
    save(folder, tensors | eight, quantization_config=FP8 | {"quant_method": method})
    assert f"{UP}.weight (F8_E4M3)" in refusal(folder)


def test_what_transformers_dequantises_is_loaded(folder: Path) -> None:
    tensors = weights(folder)
    eight = {name: tensors[name] for name in tensors if "proj" in name}
    scales = {
        f"{name}_scale_inv": torch.full([(size + 3) // 4 for size in weight.shape], 2.0)
        for name, weight in eight.items()
    }
    eight = {name: weight.to(torch.float8_e4m3fn) for name, weight in eight.items()}
    save(folder, tensors | eight | scales, quantization_config=FP8)
    loaded = dict(load_model(str(folder), torch.float32).named_parameters())
    expected = 2 * eight[f"{UP}.weight"].float()
    torch.testing.assert_close(loaded[f"{UP}.weight"].detach(), expected)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_what_cannot_be_dequantised_here_is_called_quantised(folder: Path, method: str) -> None:
    about = {"quant_method": method, "bits": 4, "load_in_8bit": True}
    save(folder, weights(folder), quantization_config=about)
    with pytest.raises(ModelError, match=r"is quantised, as its config\.json says") as caught:
        load_model(str(folder), torch.float32)
    assert "name the model that was quantised" in str(caught.value)


def test_integers_that_are_no_weights_may_be_in_a_checkpoint() -> None:
    class Own(nn.Module):
        _keys_to_ignore_on_load_unexpected = (r"h\.\d+\.attn\.mask",)

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.register_buffer("places", torch.arange(3))

    model = nn.ModuleDict({"base": Own()})
    stored = {
        "base.inner.weight": StoredTensor("F16", (2, 2)),
        "base.places": StoredTensor("I64", (3,)),
        "places": StoredTensor("I64", (3,)),
        "count": StoredTensor("I64", ()),
    }
    assert quantised(stored, {"count"}, {}, model) == []
    ignored = {"h.3.attn.mask": StoredTensor("BOOL", (1, 1, 9, 9))}
    assert quantised(ignored, set(), {}, model["base"]) == []


def test_eight_bit_weights_that_stay_so_are_finite_or_not_as_others() -> None:
    model = nn.Linear(2, 2, bias=False).requires_grad_(False)
    model.weight.data = torch.ones(2, 2).to(torch.float8_e4m3fn)
    check_finite(model)
