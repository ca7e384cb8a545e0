import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    MptConfig,
    PreTrainedConfig,
)

from rayinfluence.errors import ModelError, NumericsError, brief
from rayinfluence.model.identity import model_identity
from rayinfluence.model.load import (
    assemble,
    attention_of,
    context_length,
    disassemble,
    load_model,
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
    with pytest.raises(ModelError, match=r"do not belong together: \d weights are missing") as e:
        load(gpt2)
    assert name in str(e.value) or "lm_head" in str(e.value)  # tied: either name is right


def test_weights_of_another_shape_are_refused_by_name(folder: Path) -> None:
    tensors = weights(folder)
    name = max(tensors, key=lambda name: tensors[name].numel())
    save(folder, tensors | {name: tensors[name][:-1].clone()})
    with pytest.raises(ModelError, match=f"1 weights have another shape, such as {name}"):
        load(folder)


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


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, tiny_mlp])
def test_a_model_that_is_taken_apart_and_put_together_is_the_same(make: object) -> None:
    model = make(dtype=torch.float32)  # type: ignore[operator]
    skeleton, tensors = disassemble(model)
    assert all(weight.is_meta for weight in skeleton.parameters())
    assert not any(weight.is_meta for weight in model.parameters())
    again = assemble(skeleton, tensors)
    assert model_identity(again) == model_identity(model)
    pointers = {name: weight.data_ptr() for name, weight in again.named_parameters()}
    assert pointers == {name: tensor.data_ptr() for name, tensor in tensors.items()}  # no copy
    tokens = torch.tensor([[1, 2, 3]])
    ours, theirs = again(tokens), model(tokens)
    ours, theirs = getattr(ours, "logits", ours), getattr(theirs, "logits", theirs)
    assert torch.equal(ours, theirs)


def test_a_model_that_keeps_a_state_of_its_last_pass_is_taken_apart() -> None:
    """As RecurrentGemma does; what the checks ran with gradients is in it."""
    model = tiny_mlp()
    model.inner.state = (2 * model.inner.weight.requires_grad_(True)).sum()
    skeleton, _ = disassemble(model)
    assert torch.equal(skeleton.inner.state, model.inner.state)
    assert skeleton.inner.state.is_leaf


def test_tied_weights_stay_tied() -> None:
    skeleton, tensors = disassemble(tiny_gpt2())
    again = assemble(skeleton, tensors)
    assert again.lm_head.weight is again.transformer.wte.weight


def test_loaded_weights_are_aligned(tmp_path: Path) -> None:
    """As those are that replicas share: kernels round by the alignment of their operands."""
    tiny_gpt2(dtype=torch.float32).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), torch.float32)
    assert {weight.data_ptr() % 64 for weight in loaded.parameters()} == {0}


_ANGLES = 1 / 10000 ** (torch.arange(0, 4, 2) / 4)


@pytest.mark.parametrize(
    ("name", "is_computed", "is_not"),
    [
        ("self_attn.bias", torch.ones(1, 1, 16, 16).tril(), torch.ones(1, 1, 16, 16)),
        ("self_attn.causal_mask", torch.ones(1, 1, 9, 9).bool().triu(1), torch.rand(1, 1, 9, 9)),
        ("self_attn.masked_bias", torch.tensor(-1e9), torch.tensor(0.5)),
        ("rotary_emb.position_ids", torch.arange(16)[None], torch.arange(1, 17)[None]),
        ("self_attn.rotary_emb.inv_freq", _ANGLES, 1 / 5e5 ** (torch.arange(0, 4, 2) / 4)),
        ("mlp.up_proj.bias", None, torch.ones(48)),
    ],
)
def test_old_checkpoints_may_hold_what_is_computed_today(
    tmp_path: Path, name: str, is_computed: Tensor | None, is_not: Tensor
) -> None:
    tiny_llama(dtype=torch.float32).save_pretrained(tmp_path / "model")
    folder, name = tmp_path / "model", f"model.layers.0.{name}"
    made = {key: value.clone() for key, value in weights(folder).items()}
    if is_computed is not None:
        save(folder, made | {name: is_computed.contiguous()})
        load(folder)
    save(folder, made | {name: is_not})
    what = "rotary angles" if name.endswith("inv_freq") else "have no place in the model"
    with pytest.raises(ModelError, match=f"{what}.*{name}"):
        load(folder)


def test_two_sets_of_weights_are_refused(gpt2: Path) -> None:
    (gpt2 / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"two sets of weights.*Remove the one"):
        load(gpt2)


def test_weights_that_the_model_has_no_place_for_are_refused_by_name(folder: Path) -> None:
    """Three layers in the file and two in the config: the third would be dropped in silence."""
    tensors = weights(folder)
    third = {n.replace(".1.", ".2."): w.clone() for n, w in tensors.items() if ".1." in n}
    save(folder, tensors | third)
    with pytest.raises(ModelError, match=r"config\.json and the weights .* do not belong") as e:
        load(folder)
    assert "weights are in the files and have no place in the model" in str(e.value)
    assert min(name for name in third if "c_attn" not in name) in str(e.value)
    assert len(str(e.value)) < 600


def test_a_tied_head_that_is_not_in_the_file_is_not_missing(tmp_path: Path) -> None:
    model = tiny_llama(dtype=torch.float32)
    config = type(model.config).from_dict(model.config.to_dict() | {"tie_word_embeddings": True})
    type(model)(config).save_pretrained(tmp_path)
    assert "lm_head.weight" not in weights(tmp_path)
    loaded = load(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_a_kind_of_model_that_generates_no_text_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="no causal language model of the type 'vit'") as e:
        load(tmp_path)
    assert len(str(e.value)) < 300


def test_a_library_s_error_is_cut_and_keeps_its_advice() -> None:
    said = brief(ValueError("It is wrong. " + "AConfig, " * 500 + "\nPlease set   this."))
    assert said.startswith("It is wrong.")
    assert said.endswith("Please set this.")
    assert len(said) < 410
    assert brief(KeyError()) == "KeyError"


def test_a_model_without_sdpa_is_computed_with_eager(tmp_path: Path) -> None:
    bloom = BloomConfig(vocab_size=48, hidden_size=16, n_layer=2, n_head=2)
    BloomForCausalLM(bloom).save_pretrained(tmp_path)
    assert attention_of(load_model(str(tmp_path), torch.float32, attention="sdpa")) == "eager"
    # A folder that loads with neither is refused for its own reason.
    config = json.loads((tmp_path / "config.json").read_text()) | {"n_head": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"cannot be loaded: .*divisible by num_heads"):
        load_model(str(tmp_path), torch.float32, attention="sdpa")


def test_what_transformers_reports_of_a_loading_is_not_shown_beside_our_sentence(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(caplog.handler)
    try:
        save(folder, weights(folder) | {"extra.weight": torch.ones(2)})
        with pytest.raises(ModelError, match=r"have no place in the model.*extra\.weight"):
            load(folder)
        assert "LOAD REPORT" not in caplog.text
        # Whoever loads for himself afterwards is told.
        GPT2LMHeadModel.from_pretrained(folder)
        assert "LOAD REPORT" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_sdpa_stays_where_there_is_sdpa(folder: Path) -> None:
    assert attention_of(load(folder)) == "sdpa"
    assert attention_of(load_model(str(folder), torch.float32, attention="eager")) == "eager"
    assert attention_of(tiny_mlp()) is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2Config(n_positions=24), 24),
        (MptConfig(max_seq_len=40), 40),
        (BloomConfig(seq_length=56), 56),
        (BloomConfig(max_sequence_length=56), 56),
        (BloomConfig(n_ctx=72), 72),
        (BloomConfig(seq_length=None), None),
        (Gemma3Config(text_config={"max_position_embeddings": 88}), 88),
    ],
    ids=lambda value: str(value) if isinstance(value, int | None) else type(value).__name__,
)
def test_the_context_is_found_under_every_name(
    config: PreTrainedConfig, expected: int | None
) -> None:
    model = tiny_gpt2()
    model.config = config
    assert context_length(model) == expected


def test_a_model_whose_embedding_nobody_names_has_the_vocabulary_of_its_config() -> None:
    """Code that comes with a model may leave ``get_input_embeddings`` out."""
    model = tiny_gpt2()

    def unnamed() -> None:
        raise NotImplementedError("`get_input_embeddings` not auto-handled")

    rows = vocabulary_size(model)
    model.get_input_embeddings = unnamed
    assert vocabulary_size(model) == rows == model.config.vocab_size
