import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
)
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from rayinfluence.errors import ModelError
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import Coverage, chosen, shape_of, track
from rayinfluence.model.parts import parts_of
from rayinfluence.model.preflight import made_up
from rayinfluence.model.reach import Reach
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_mlp

GPT2_MLP = [f"transformer.h.{i}.mlp.{name}" for i in (0, 1) for name in ("c_fc", "c_proj")]
GPT2_ATTENTION = [f"transformer.h.{i}.attn.{name}" for i in (0, 1) for name in ("c_attn", "c_proj")]
LLAMA_MLP = [
    f"model.layers.{i}.mlp.{name}" for i in (0, 1) for name in ("gate_proj", "up_proj", "down_proj")
]


def mlps(model: nn.Module) -> dict[str, nn.Module]:
    parts = parts_of(freeze(model), made_up(range(48), torch.device("cpu")))
    return chosen(model, "mlp", parts)


@pytest.mark.parametrize(("model", "names"), [(tiny_gpt2, GPT2_MLP), (tiny_llama, LLAMA_MLP)])
def test_the_mlps_of_every_block_are_the_default(model: object, names: list[str]) -> None:
    assert list(mlps(model())) == names  # type: ignore[operator]


def bert() -> nn.Module:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "is_decoder": True, "add_cross_attention": True}
    return BertLMHeadModel(BertConfig(vocab_size=48, **sizes, **heads))


def test_the_output_of_attention_is_tracked_where_it_is_asked_for() -> None:
    found = track(bert(), ["*.output.dense"])
    assert "bert.encoder.layer.0.attention.output.dense" in found
    assert len(found) == 3


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.attn.*"], GPT2_ATTENTION),
        (["transformer.h.1.mlp.c_fc"], ["transformer.h.1.mlp.c_fc"]),
        (["*c_fc", "*.h.0.mlp.*"], [GPT2_MLP[0], GPT2_MLP[1], GPT2_MLP[2]]),
        (["transformer.h.[0].mlp.c_f?"], GPT2_MLP[:1]),
    ],
)  # fmt: skip
def test_patterns_choose_and_the_model_s_order_is_kept(
    patterns: list[str], expected: list[str]
) -> None:
    assert list(track(tiny_gpt2(), patterns)) == expected


@pytest.mark.parametrize(
    "patterns", [["*.nothing.*"], ["*.mlp.*", "*.MLP.*"], ["transformer.h.0.ln_1"], ["wte"], [""]]
)
def test_a_pattern_that_matches_nothing_is_named_with_what_there_is(patterns: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        track(tiny_gpt2(), patterns)
    assert f"the pattern {patterns[-1]!r} matches no linear layer" in str(caught.value)
    assert "transformer.h.0.attn.c_attn" in str(caught.value)
    assert "and 1 more" in str(caught.value)


def test_of_tied_embeddings_that_of_outputs_stands_for_both() -> None:
    assert "lm_head" not in track(tiny_gpt2(), ["*"])
    assert list(track(tiny_gpt2(), ["lm_head"])) == ["lm_head"]
    with pytest.raises(ModelError, match="another module: write lm_head, under which both of its"):
        track(tiny_gpt2(), ["transformer.wte"])


def test_a_weight_with_a_third_use_is_refused_by_each_name() -> None:
    model = tiny_gpt2()
    model.another = torch.nn.Linear(*reversed(model.lm_head.weight.shape), bias=False)
    model.another.weight = model.lm_head.weight
    for name in ("lm_head", "transformer.wte", "another"):
        with pytest.raises(ModelError, match=f"{name} shares its weight .* Leave it out"):
            track(model, [name])


def test_an_untied_output_embedding_is_tracked_only_by_its_own_name() -> None:
    assert "lm_head" not in track(tiny_llama(), ["*"])
    assert list(track(tiny_llama(), ["lm_head"])) == ["lm_head"]
    assert list(track(tiny_llama(), ["*gate_proj", "lm_head"]))[-1] == "lm_head"
    for pattern in ("lm_*", "*head*"):
        with pytest.raises(ModelError, match="matches no linear layer") as caught:
            track(tiny_llama(), [pattern])
        assert f"the pattern {pattern!r} matches" in str(caught.value)
        assert (
            "named in full, as one of its sides is as wide as the vocabulary: write lm_head."
            in str(caught.value)
        )


class OtherExperts(MixtralExperts):
    """Experts of a kind that is not known."""


@pytest.mark.parametrize("patterns", [None, ["*.experts.*"], ["*.mlp.experts.3.w1"]])
def test_fused_experts_are_named_with_what_can_be_tracked_instead(
    patterns: list[str] | None,
) -> None:
    """Not that there is no MLP: they are there, as single parameters."""
    model = MixtralForCausalLM(
        MixtralConfig(
            vocab_size=48,
            hidden_size=16,
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=4,
        )
    )
    for layer in model.model.layers:
        layer.mlp.experts.__class__ = OtherExperts
    with pytest.raises(ModelError) as caught:
        mlps(model) if patterns is None else track(model, patterns)
    said = str(caught.value)
    assert "The experts of model.layers.0.mlp.experts and 1 more are fused into single" in said
    assert "(OtherExperts), which is not supported yet" in said
    assert "such as '*.self_attn.*'" in said
    assert len(said) < 650
    assert next(iter(track(model, ["*.self_attn.*"]))) == "model.layers.0.self_attn.q_proj"
    with pytest.raises(ModelError) as caught:
        track(model, ["model.layers.*.nothing"])
    assert "experts" not in str(caught.value)


def test_a_long_pattern_does_not_make_a_long_sentence() -> None:
    with pytest.raises(ModelError) as caught:
        track(tiny_gpt2(), ["x" * 5000])
    assert len(str(caught.value)) < 500


def test_layers_that_share_a_weight_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    assert list(track(model, ["*"])) == ["1"]


def test_a_model_without_linear_layers_says_so() -> None:
    for choose in (lambda model: track(model, ["*"]), lambda model: chosen(model, "mlp", {})):
        with pytest.raises(ModelError, match=r"no layer .*Linear.*TokenConvolution.* nothing to"):
            choose(nn.Sequential(nn.Embedding(3, 3)))
    assert list(track(tiny_mlp(), ["inner", "head"])) == ["inner", "head"]


@pytest.mark.parametrize(
    ("model", "name", "expected"),
    [
        (tiny_gpt2, "transformer.h.0.mlp.c_fc", (12, 48, True, 13, 48 * 13)),
        (tiny_llama, "model.layers.0.mlp.down_proj", (20, 16, False, 20, 16 * 20)),
        (tiny_mlp, "inner", (10, 10, True, 11, 110)),
    ],
)
def test_shapes_are_outputs_by_inputs_and_a_bias_column(
    model: object, name: str, expected: tuple[int, ...]
) -> None:
    built = model()  # type: ignore[operator]
    shape = shape_of(name, built.get_submodule(name), built)
    assert (shape.d_in, shape.d_out, shape.bias, shape.columns, shape.n_parameters) == expected


def test_coverage_is_the_share_of_parameters_that_is_tracked() -> None:
    model = tiny_gpt2()
    mlp = 2 * (12 * 48 + 48 + 48 * 12 + 12)
    attention = 2 * (12 * 36 + 36 + 12 * 12 + 12)
    norms = 5 * 24
    embeddings = (48 + 16) * 12  # the output embedding is tied to the input's
    nowhere = Reach(frozenset(), {}, (), (1, 1))
    found = Coverage.of(model, mlps(model), nowhere)
    assert found.share == mlp / (mlp + attention + norms + embeddings)
    assert found.rest["transformer.wte.weight"] == 48 * 12
    assert found.rest["transformer.h.*.attn.c_attn.weight"] == 2 * 12 * 36
    assert sum(found.rest.values()) == attention + norms + embeddings
    everything = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert Coverage.of(everything, track(everything, ["*"]), nowhere).share == 1.0


def test_an_empty_list_of_patterns_is_told_as_such() -> None:
    with pytest.raises(ModelError, match=r"modules: The list is empty, .* linear layers are "):
        track(tiny_gpt2(), [])
