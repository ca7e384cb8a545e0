"""Choices of modules that lead nowhere, and whether what is advised in their place works."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    JetMoeConfig,
    Llama4TextConfig,
    OPTConfig,
    PhimoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    XLNetConfig,
)

from rayinfluence.errors import ModelError
from rayinfluence.model.advice import more_layers, refuse_little, refuse_other_shapes
from rayinfluence.model.head import LanguageModel
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import chosen, trackable
from rayinfluence.model.parts import Part, parts_of
from rayinfluence.model.preflight import made_up, preflight
from rayinfluence.model.reach import Reach, reach, tracked_and_reached, without_unfit
from rayinfluence.testing import tiny_gpt2, tiny_llama

TOKENS = range(40)
SMALL = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

OPT = OPTConfig(
    vocab_size=48,
    hidden_size=16,
    word_embed_proj_dim=16,
    ffn_dim=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=16,
)
QWEN = Qwen2MoeConfig(
    **SMALL,
    moe_intermediate_size=8,
    shared_expert_intermediate_size=8,
    num_experts=4,
    num_experts_per_tok=2,
)
JETMOE = JetMoeConfig(**SMALL, **EXPERTS, kv_channels=8)
PHIMOE = PhimoeConfig(**SMALL, **EXPERTS)
LLAMA4 = Llama4TextConfig(**SMALL, **EXPERTS, head_dim=8, intermediate_size_mlp=32)
DEEPSEEK = DeepseekV3Config(
    **SMALL,
    n_routed_experts=4,
    first_k_dense_replace=2,
    q_lora_rank=8,
    kv_lora_rank=8,
    qk_rope_head_dim=4,
    qk_nope_head_dim=4,
    v_head_dim=8,
)
XLNET = XLNetConfig(vocab_size=48, d_model=16, n_layer=2, n_head=2, d_inner=32)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return freeze(make())


def made(config: PreTrainedConfig) -> nn.Module:
    return seeded(lambda: AutoModelForCausalLM.from_config(config))


def reached(
    model: nn.Module, wanted: str | list[str]
) -> tuple[dict[str, nn.Module], dict[str, nn.Module], Reach, dict[str, Part]]:
    probe = made_up(TOKENS, torch.device("cpu"))
    parts = parts_of(model, probe)
    tracked = chosen(model, wanted, parts)
    found = reach(model, trackable(model) | tracked, probe)
    return tracked, tracked_and_reached(tracked, found)[0], found, parts


def passes(model: nn.Module, wanted: str | list[str]) -> None:
    """All that a run refuses before a document is read."""
    _, kept, found, parts = reached(model, wanted)
    if isinstance(wanted, str):
        kept, _ = without_unfit(kept, found)
    if wanted == "mlp":
        refuse_little(model, kept, found, parts)
    refuse_other_shapes(model, kept, found, parts)
    preflight(LanguageModel.of(model, kept.values()), kept, TOKENS, 16)


@pytest.mark.parametrize(
    ("config", "patterns", "wrong", "advised"),
    [
        (PHIMOE, ["*.router"], "layers.*.mlp.router (the first gives a tuple)", "self_attn.*"),
        (LLAMA4, ["*.router"], "forward.router (the first gives a tuple)", "shared_expert.*"),
        (LLAMA4, ["*.feed_forward.*"], "forward.router (the first gives", "shared_expert.up_proj"),
        (LLAMA4, ["*"], "forward.router (the first gives a tuple)", "self_attn.q_proj"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_is_advised_in_place_of_what_is_refused_works(
    config: PreTrainedConfig, patterns: str | list[str], wrong: str, advised: str
) -> None:
    model = made(config)
    with pytest.raises(ModelError) as caught:
        passes(model, patterns)
    said = str(caught.value)
    assert wrong in said
    assert len(said) < 800
    [listed] = re.findall(r"`modules: \[(.*)\]`", said)
    assert advised in listed
    passes(model, listed.split(", "))


@pytest.mark.parametrize(
    ("config", "patterns"),
    [(OPT, "mlp"), (OPT, ["*"]), (QWEN, "mlp"), (QWEN, "all"), (DEEPSEEK, "all")],
    ids=["opt", "all of opt", "shared experts", "all beside routed experts", "one head"],
)
def test_layers_that_get_all_tokens_in_one_row_or_with_one_head_are_tracked(
    config: PreTrainedConfig, patterns: str | list[str]
) -> None:
    model = made(config)
    passes(model, patterns)
    tracked, kept, _, _ = reached(model, patterns)
    assert list(kept) == list(tracked)
    special = ("fc1", "shared_expert.", "kv_b_proj")
    assert any(part in name for name in kept for part in special)


def test_routers_that_give_a_tuple_are_left_out_of_all_and_all_else_is_tracked() -> None:
    model = made(LLAMA4)
    passes(model, "mlp")
    passes(model, "all")
    _, reached_by_text, found, parts = reached(model, "all")
    kept, unfit = without_unfit(reached_by_text, found)
    assert unfit == [f"model.layers.{n}.feed_forward.router" for n in range(2)]
    assert [name for name in reached_by_text if name not in unfit] == list(kept)
    assert len(kept) == 2 * (3 + 4)
    assert ".router" not in more_layers(model, {}, found, parts)


class Wide(nn.Module):
    """Layers of which one gets tokens before sequences, and one is a router."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.turned = nn.Linear(8, 8)
        for name in "abcdefgh":
            self.add_module(name, nn.Linear(8, 1 if name == "a" else 8))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = self.embed(tokens_BT)
        x = x + self.turned(x.transpose(0, 1)).transpose(0, 1)
        for name in "abcdefgh":
            x = x + getattr(self, name)(x).tanh()
        return self.head(x)


def test_what_is_left_when_some_are_left_out_is_all_of_the_others() -> None:
    model = seeded(Wide)
    with pytest.raises(ModelError) as caught:
        passes(model, [*"abcdefgh", "turned"])
    [rest] = re.findall(r"Leave them out with `modules: \[(.*)\]`", str(caught.value))
    assert rest.split(", ") == [*"abcdefgh"]


class ByHand(nn.Module):
    """An MLP beside which the weight of a router is used without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.up = nn.Linear(8, 2), nn.Linear(8, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        shares = (hidden @ self.router.weight.T).softmax(dim=-1)
        return self.up(hidden).tanh() * shares[..., :1]


class OneByHand(nn.Module):
    """Of one such block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mlp, self.head = nn.Embedding(48, 8), ByHand(), nn.Linear(8, 48)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.head(self.mlp(self.embed(tokens_BT)))


def test_what_is_used_without_a_call_has_no_part_and_is_refused_where_it_is_named() -> None:
    model = seeded(OneByHand)
    passes(model, "all")
    _, kept, _, parts = reached(model, "all")
    assert kept == {"mlp.up": model.mlp.up}
    assert parts == {"mlp.up": "mlp"}
    with pytest.raises(ModelError) as caught:
        passes(model, ["mlp.*"])
    assert "mlp.router (the first is never called, while its weight is used)" in str(caught.value)
    assert "`modules: [mlp.up]`" in str(caught.value)
    passes(model, ["mlp.up"])


def test_where_no_layer_can_be_tracked_no_pattern_is_advised() -> None:
    with pytest.raises(ModelError, match=r"ff\.layer_\* .* no pattern works: name another model"):
        passes(made(XLNET), "mlp")


class Experts(nn.Module):
    """A block whose experts are one parameter, with a router that keeps the axis of sequences."""

    def __init__(self, width: int, hidden: int, dense: bool) -> None:
        super().__init__()
        self.router = nn.Linear(width, 2)
        self.experts = nn.Parameter(torch.randn(2, width, hidden))
        self.back = nn.Parameter(torch.randn(2, hidden, width))
        self.dense = nn.Linear(width, width) if dense else None

    def forward(self, hidden: Tensor) -> Tensor:
        shares = self.router(hidden).softmax(dim=-1)
        inner = torch.einsum("bti,eij,ejk->btek", hidden, self.experts, self.back)
        mixed = torch.einsum("btek,bte->btk", inner.tanh(), shares)
        return mixed if self.dense is None else mixed + self.dense(hidden)


class Mixture(nn.Module):
    """Of one such block and a projection before it."""

    def __init__(self, hidden: int = 4, dense: bool = False) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.layers = nn.ModuleList([nn.ModuleDict()])
        self.layers[0]["before"] = nn.ModuleDict({"project": nn.Linear(8, 8)})
        self.layers[0]["mlp"] = Experts(8, hidden, dense)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.layers[0]["before"]["project"](self.embed(tokens_BT))
        return self.head(hidden + self.layers[0]["mlp"](hidden))


def test_fused_experts_are_told_however_large_their_router_and_it_may_be_named() -> None:
    model = seeded(Mixture)
    assert reached(model, "all")[3] == {
        "layers.0.before.project": "mlp",
        "layers.0.mlp.router": "router",
    }
    passes(model, "mlp")
    passes(model, ["*.router"])


def test_where_all_experts_are_fused_it_is_said_and_all_other_layers_may_be_asked_for() -> None:
    model = made(JETMOE)
    with pytest.raises(ModelError, match=r"The experts of model.layers.0.* fused into single"):
        passes(model, "mlp")
    passes(model, "attention")
    passes(model, "all")


def test_next_to_nothing_is_refused_by_default_whatever_it_is() -> None:
    with pytest.raises(ModelError, match=r"MLPs only layers.*dense would .* Mixture, 0\.\d+% of"):
        passes(seeded(lambda: Mixture(hidden=1000, dense=True)), "mlp")


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_ordinary_defaults_are_neither_refused_nor_short_of_advice(make) -> None:
    model = make(dtype=torch.float32)
    passes(model, "mlp")
    _, kept, found, parts = reached(model, "mlp")
    assert ".mlp.*" in more_layers(model, kept, found, parts)
    everything, _, found, parts = reached(model, ["*"])
    assert more_layers(model, everything, found, parts) == "No other linear layer can be tracked."


class Shaped(nn.Module):
    """A layer that is given its input in another shape, or not alone."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed, self.head, self.layer = nn.Embedding(48, 8), nn.Linear(8, 48), Layer(8, 8)
        self.how = how

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = self.embed(tokens_BT)
        if self.how == "tokens first":
            return self.head(x + self.layer(x.transpose(0, 1)).transpose(0, 1))
        if self.how == "in pairs":
            return self.head(x + torch.stack([self.layer(one) for one in x]))
        if self.how == "as one head":
            return self.head(x + self.layer(x[:, None])[:, 0])
        if self.how == "in a list":
            return self.head(x + self.layer([x]))
        return self.head(x + self.layer(other=x, scale=1.0))


class Layer(nn.Linear):
    """A layer that takes its input as nobody foresees."""

    def forward(self, input: Any = None, other: Any = None, scale: float = 1.0) -> Tensor:
        given = other if input is None else input
        return scale * super().forward(given[0] if isinstance(given, list) else given)


@pytest.mark.parametrize(
    ("how", "got"),
    [
        ("tokens first", "[7, 2, width]"),
        ("in pairs", "[7, width]"),
        ("in a list", "no tensor as its first or only argument"),
        ("by two names", "no tensor as its first or only argument"),
    ],
)
def test_a_layer_whose_input_is_not_sequence_by_sequence_is_refused(how: str, got: str) -> None:
    model = seeded(lambda: Shaped(how))
    _, kept, found, parts = reached(model, ["*"])
    with pytest.raises(ModelError) as caught:
        refuse_other_shapes(model, kept, found, parts)
    assert f": layer (the first gets {got} for 2 sequences of 7 tokens)" in str(caught.value)


def test_a_layer_that_gets_its_input_as_that_of_one_head_is_tracked() -> None:
    """As what DeepSeek makes keys and values of."""
    model = seeded(lambda: Shaped("as one head"))
    passes(model, ["layer"])
    assert list(reached(model, ["layer"])[1]) == ["layer"]
