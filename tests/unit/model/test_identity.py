import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma3Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen2Config,
    RobertaConfig,
    RobertaForCausalLM,
)

from rayinfluence.model.identity import model_differences, model_digest, model_identity
from rayinfluence.model.load import load_model
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_mlp
from rayinfluence.testing.models import CONTEXT


@pytest.fixture(params=[tiny_gpt2, tiny_llama])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    request.param(dtype=torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def identity(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return model_identity(load_model(str(folder), dtype))


def set_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def differ(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    assert model_digest(one) != model_digest(other)
    return model_differences(one, other)


def of(config: PreTrainedConfig) -> dict[str, Any]:
    """What a configuration alone adds to a model's identity."""
    model = tiny_gpt2()
    model.config = config
    return model_identity(model)


def test_a_model_is_known_by_its_weights_and_not_by_its_folder(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert identity(tmp_path / "copy") == identity(folder)
    differ(identity(folder, torch.float64), identity(folder))


def test_changed_weights_make_another_model_and_are_named(folder: Path) -> None:
    before = identity(folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "mlp" in name)
    tensors[name].view(-1)[-1] = torch.nextafter(tensors[name].view(-1)[-1], torch.tensor(9e9))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    [line] = differ(identity(folder), before)
    assert line == f"weights: 1 of {len(before['weights'])} differ, first {name}"


def test_a_buffer_that_computes_makes_another_model() -> None:
    model = tiny_llama()
    before = model_identity(model)
    model.model.rotary_emb.inv_freq[1] *= 2
    [line] = differ(model_identity(model), before)
    assert line.endswith("first model.rotary_emb.inv_freq")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"activation_function": "relu"}, "config.activation_function: relu, was gelu_new"),
        ({"n_head": 3}, "config.n_head: 3, was 2"),
        ({"scale_attn_weights": False}, "config.scale_attn_weights: False, was True"),
        ({"layer_norm_epsilon": 0.1}, "config.layer_norm_epsilon: 0.1, was 1e-05"),
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "config.scale_attn_by_inverse_layer_idx: True, was False",
        ),
    ],
)
def test_configuration_that_computes_makes_another_model_and_is_named(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    tiny_gpt2(dtype=torch.float32).save_pretrained(tmp_path)
    before = identity(tmp_path)
    set_config(tmp_path, **values)
    assert differ(identity(tmp_path), before) == [said]


def test_every_key_counts_where_the_model_s_code_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_llama()
    model.config.lab_book = "page 7"
    before = model_identity(model)
    monkeypatch.setattr("rayinfluence.model.names_read._names_in", lambda *_: None)
    more = {"lab_book": "page 7", "max_position_embeddings": CONTEXT}
    assert model_identity(model)["config"] == before["config"] | more


@pytest.mark.parametrize("key", ["per_layer_config", "quantization_config"])
def test_what_the_library_itself_reads_counts(key: str) -> None:
    model = tiny_llama()
    before = model_identity(model)
    plain = model.config.to_dict()
    model.config.to_dict = lambda: plain | {key: {"0": {"sliding_window": 4}}}
    assert differ(model_identity(model), before) == [
        f"config.{key}.0.sliding_window: 4, was absent"
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"use_cache": False},
        {"resid_pdrop": 0.5, "attention_dropout": 0.5, "summary_first_dropout": 0.0},
        {"id2label": {"0": "good", "1": "bad", "2": "?"}},
        {"pad_token_id": 3, "eos_token_id": 5},
        {"architectures": ["Mine"], "initializer_range": 0.3, "transformers_version": "9"},
        {"summary_type": "mean", "torch_dtype": "float16"},
        {"note": "what I did in May", "lab": {"run": 7}},
        {"task_specific_params": {"text-generation": {"max_length": 50}}},
        {"chunk_size_feed_forward": 4},
        {"pretraining_tp": 2},
        {"gradient_checkpointing": True, "output_attentions": False, "output_hidden_states": False},
        {"problem_type": "regression", "_name_or_path": "elsewhere", "dtype": "bfloat16"},
        {"unsloth_version": "2025.1", "max_length": 50, "temperature": 0.5, "do_sample": True},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_computes_nothing_makes_no_other_model(folder: Path, values: dict[str, Any]) -> None:
    before = identity(folder)
    set_config(folder, **values)
    assert model_digest(identity(folder)) == model_digest(before)


def remade(config: PreTrainedConfig, **values: Any) -> dict[str, Any]:
    """The identity of a model of the same weights whose configuration has other values."""
    config = type(config)(**config.to_dict() | values)
    torch.manual_seed(0)
    return model_identity(AutoModelForCausalLM.from_config(config))


_SMALL = {"vocab_size": 48, "hidden_size": 8, "num_hidden_layers": 2, "bos_token_id": 0,
          "eos_token_id": 0, "pad_token_id": 0}  # fmt: skip
_QWEN = Qwen2Config(**_SMALL, intermediate_size=8, num_attention_heads=2, num_key_value_heads=2)
_MAMBA = MambaConfig(**_SMALL, state_size=4)


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (_QWEN, {"max_window_layers": 1}),
        (_QWEN, {"max_position_embeddings": 99}),
        (_MAMBA, {"time_step_floor": 0.5}),
    ],
    ids=["max_window_layers", "max_position_embeddings", "time_step_floor"],
)
def test_what_is_read_when_a_model_is_made_alone_makes_no_other_model(
    config: PreTrainedConfig, values: dict[str, Any]
) -> None:
    before = remade(config)
    assert remade(config, **values)["config"] == before["config"]


def test_a_length_counts_where_angles_go_by_it_and_layers_where_a_window_begins_there() -> None:
    dynamic = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
    [line] = differ(
        remade(_QWEN, **dynamic, max_position_embeddings=99),
        remade(_QWEN, **dynamic, max_position_embeddings=88),
    )
    assert line == "config.max_position_embeddings: 99, was 88"
    window = {"use_sliding_window": True, "sliding_window": 4, "layer_types": None}
    [line] = differ(
        remade(_QWEN, **window, max_window_layers=1), remade(_QWEN, **window, max_window_layers=0)
    )
    assert line.startswith("config.layer_types: ")


@pytest.mark.parametrize("values", [{"pretraining_tp": 2, "slow_but_exact": True}])
def test_the_same_sums_in_pieces_make_no_other_model(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    bloom = BloomConfig(vocab_size=48, hidden_size=16, n_layer=2, n_head=2)
    BloomForCausalLM(bloom).save_pretrained(tmp_path)
    tokens = torch.tensor([[1, 2, 3, 4]])
    before, logits = identity(tmp_path), load_model(str(tmp_path), torch.float32)(tokens).logits
    set_config(tmp_path, **values)
    again = load_model(str(tmp_path), torch.float32)
    torch.testing.assert_close(again(tokens).logits, logits)
    assert model_digest(model_identity(again)) == model_digest(before)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sliding_window": 2}, "config.sliding_window: 2, was 4"),
        ({"hidden_act": "relu"}, "config.hidden_act: relu, was silu"),
        ({"rms_norm_eps": 0.5}, "config.rms_norm_eps: 0.5, was 1e-06"),
    ],
)
def test_a_window_an_activation_and_a_norm_make_another_model_and_other_numbers(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    torch.manual_seed(0)
    mistral = MistralConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=4,
    )
    MistralForCausalLM(mistral).save_pretrained(tmp_path)
    tokens = torch.arange(1, 9)[None]
    before, logits = identity(tmp_path), load_model(str(tmp_path), torch.float32)(tokens).logits
    set_config(tmp_path, **values)
    assert differ(identity(tmp_path), before) == [said]
    assert not torch.allclose(load_model(str(tmp_path), torch.float32)(tokens).logits, logits)


def test_defaults_make_no_other_model_whether_spelled_out_or_not(folder: Path) -> None:
    before = identity(folder)
    config = json.loads((folder / "config.json").read_text())
    kind = type(load_model(str(folder), torch.float32).config)
    defaults = kind().to_dict()
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v != defaults.get(k) or k == "model_type"})
    )
    assert model_digest(identity(folder)) == model_digest(before)


def test_what_the_model_s_code_reads_counts_though_its_class_does_not_declare_it() -> None:
    class Scaled(GPT2LMHeadModel):
        def forward(self, **inputs: Any) -> Any:
            return super().forward(**inputs).logits * self.config.own_scale

    model = tiny_gpt2()
    before = model_identity(model)
    model.config.own_scale = 2.0
    assert model_identity(model) == before  # GPT-2's code does not read it
    model.__class__ = Scaled
    assert model_identity(model)["config"] == before["config"] | {"own_scale": 2}


def test_parts_of_a_model_have_their_own_configurations() -> None:
    ours, theirs = (of(Gemma3Config(text_config={"rms_norm_eps": e})) for e in (0.5, 0.25))
    assert differ(ours, theirs) == ["config.text_config.rms_norm_eps: 0.5, was 0.25"]
    noted = of(Gemma3Config(text_config={"rms_norm_eps": 0.5, "attention_dropout": 0.3}))
    assert model_digest(noted) == model_digest(ours)


def test_a_value_is_named_beside_the_default_of_the_other_model() -> None:
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    ours, theirs = of(LlamaConfig()), of(LlamaConfig(rope_parameters=rope))
    assert differ(ours, theirs) == ["config.rope_parameters.rope_theta: 10000, was 500000"]
    scaled = of(LlamaConfig(rope_parameters={**rope, "rope_type": "linear", "factor": 2.0}))
    assert differ(scaled, theirs) == [
        "config.rope_parameters.factor: 2, was absent",
        "config.rope_parameters.rope_type: linear, was default",
    ]


def test_the_padding_s_id_counts_where_positions_are_counted_from_it() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"intermediate_size": 8, "vocab_size": 9, "is_decoder": True}
    models = [RobertaForCausalLM(RobertaConfig(**sizes, pad_token_id=pad)) for pad in (1, 2)]
    models[1].load_state_dict(models[0].state_dict())
    ours, theirs = map(model_identity, models)
    assert differ(ours, theirs) == ["config.pad_token_id: 1, was 2"]


def test_another_architecture_of_the_same_weights_is_another_model() -> None:
    class Other(GPT2LMHeadModel):
        pass

    model = tiny_gpt2()
    before = model_identity(model)
    model.__class__ = Other
    assert differ(model_identity(model), before) == ["class: Other, was GPT2LMHeadModel"]
    assert model_differences(before, before) == []
    assert model_identity(tiny_mlp())["config"] == {}
