"""What a model must be for its numbers to be right, seen on made-up sequences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from masked import tiny_bert
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    ReformerConfig,
    ReformerModelWithLMHead,
)

from rayinfluence.errors import ModelError
from rayinfluence.model.head import LanguageModel
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import Coverage, track
from rayinfluence.model.preflight import Passed, made_up, preflight, refuse_what_does_not_run
from rayinfluence.model.reach import (
    Reach,
    reach,
    refuse_other_weights,
    tracked_and_reached,
)
from rayinfluence.testing import tiny_gpt2, tiny_llama, tiny_mlp

CPU = torch.device("cpu")
TOKENS = range(40)


def check(
    model: nn.Module, patterns: tuple[str, ...] = ("*",), context: int = 16, alone: bool = False
) -> Passed:
    tracked = track(model, patterns)
    kept, _ = tracked_and_reached(tracked, reach(model, tracked, made_up(TOKENS, CPU)))
    return preflight(LanguageModel.of(model, kept.values()), kept, TOKENS, context, alone)


def seeded(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(5)  # so that attention is not uniform
    return freeze(model.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, tiny_mlp])
def test_a_causal_model_passes_with_nothing_but_rounding(make, dtype: torch.dtype) -> None:
    found = check(make(dtype=dtype))
    most = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    assert found.gradients < most
    assert found.future < most
    assert found.neighbour < most
    assert found.context == 16


def test_the_model_is_as_it_was_afterwards() -> None:
    model = tiny_gpt2()
    check(model)
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


# --- the same tokens, the same answer; and it runs at all ---


class Sampler(nn.Module):
    """Draws or counts in its forward pass: on all sequences, or on long ones alone."""

    def __init__(self, how: str, least: int = 0) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.how, self.least, self.calls = how, least, 0
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        self.calls += 1
        if tokens_BT.shape[1] < self.least:
            return self.head(hidden)
        if self.how == "counts":
            return self.head(hidden * self.calls)
        own = self.generator if self.how == "draws by itself" else None
        kept = torch.rand(hidden.shape[1:], generator=own) > 0.1
        return self.head(hidden * kept)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("draws", "it draws random"), ("counts", "it remembers"), ("draws by itself", "it remembers")],
)
def test_other_answers_to_the_same_tokens_are_told_from_a_look_ahead(how: str, reason: str) -> None:
    with pytest.raises(ModelError, match=rf"Sampler says .* the same 7 tokens each .*: {reason}"):
        refuse_what_does_not_run(seeded(lambda: Sampler(how)), made_up(TOKENS, CPU))
    for least, tokens in ((10, 12), (20, 30)):  # as where long sequences are hashed
        with pytest.raises(ModelError, match=f"the same {tokens} tokens each time .*: {reason}"):
            check(seeded(lambda least=least: Sampler(how, least)), context=30)


def reformer(hash_seed: int | None) -> nn.Module:
    """Its attention draws its hashes, unless they are seeded, and it refuses gradients."""
    config = ReformerConfig(
        attention_head_size=8,
        attn_layers=["lsh", "lsh"],
        axial_pos_shape=[4, 4],
        axial_pos_embds_dim=[8, 8],
        hidden_size=16,
        feed_forward_size=32,
        num_attention_heads=2,
        vocab_size=48,
        max_position_embeddings=16,
        is_decoder=True,
        num_buckets=4,
        lsh_attn_chunk_length=2,
        hash_seed=hash_seed,
    )
    return ReformerModelWithLMHead(config)


def test_a_reformer_is_refused_for_what_it_does() -> None:
    with pytest.raises(ModelError, match=r"ReformerModelWithLMHead says .* draws random numbers"):
        refuse_what_does_not_run(seeded(lambda: reformer(None)), made_up(TOKENS, CPU))
    model = seeded(lambda: reformer(7))
    refuse_what_does_not_run(model, made_up(TOKENS, CPU))
    with pytest.raises(ModelError, match=r"Reformer.* cannot run backward .* AssertionError: If"):
        check(model, ("*dense*",))


class Failing(nn.Module):
    """Raises where it is told to, what nobody foresees."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.where = where

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        if self.where == "forward" or (self.where == "gradients" and torch.is_grad_enabled()):
            raise KeyError("no such cache")
        if self.where == "beside another" and len(tokens_BT) > 1:
            raise NotImplementedError
        hidden = self.head(hidden)
        if self.where == "backward" and hidden.requires_grad:
            hidden.register_hook(self.fail)
        return hidden

    def fail(self, gradient: Tensor) -> None:
        raise LookupError("no kernel")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("forward", r"cannot run on \d+ tokens in float32 on cpu: KeyError: 'no such cache'\. "),
        ("gradients", r"cannot run backward in float32 on cpu: KeyError: .* needs gradients"),
        ("backward", r"cannot run backward .*: LookupError: no kernel\. "),
        ("beside another", r"cannot run on 16 tokens .*: NotImplementedError\. Try another"),
    ],
)
def test_whatever_a_model_raises_becomes_a_sentence(where: str, said: str) -> None:
    model = seeded(lambda: Failing(where))
    layers = {"head": model.head}
    with pytest.raises(ModelError, match=f"^Failing {said}") as caught:
        preflight(LanguageModel(model, None, None), layers, TOKENS, 16)
    assert caught.value.__cause__ is not None
    if where == "forward":
        with pytest.raises(ModelError, match=said):
            reach(model, layers, made_up(TOKENS, CPU))


# --- gradients are those of autograd ---


class Functional(nn.Module):
    """A layer whose weight is used by itself: instead of calling it, or beside that."""

    def __init__(self, called: bool, elsewhere: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 8)
        self.layer, self.other = nn.Linear(8, 8), nn.Linear(8, 48)
        self.called, self.elsewhere = called, elsewhere

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        found = hidden
        if self.called:
            found = found + torch.tanh(self.layer(hidden))
        if self.elsewhere:
            found = found + torch.tanh(nn.functional.linear(hidden, self.layer.weight))
        return self.other(found)


@pytest.mark.parametrize("called", [True, False])
def test_a_weight_that_is_used_without_calling_its_layer_is_refused_by_name(called: bool) -> None:
    model = seeded(lambda: Functional(called, elsewhere=True))
    with pytest.raises(ModelError, match=r"gradient of 1 layers .*: layer \(layer: ") as caught:
        check(model)
    assert "nothing of it was seen" in str(caught.value) or "% off" in str(caught.value)
    assert ("nothing of it was seen" in str(caught.value)) == (not called)
    check(model, ("other",))  # left out, as it says


def test_a_layer_that_is_called_as_it_should_be_passes() -> None:
    check(seeded(lambda: Functional(called=True, elsewhere=False)))


class Scaled(nn.Linear):
    """A Linear that does more than a product: its output depends on its weight twice."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) / self.weight.norm()


def test_a_layer_that_is_more_than_a_product_is_refused() -> None:
    model = seeded(lambda: Functional(called=True, elsewhere=False))
    model.layer.__class__ = Scaled
    with pytest.raises(ModelError, match=r"layer: .*% off"):
        check(model)


class Attention(nn.Module):
    """torch's own attention, which uses the weight of its output layer and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden, n = self.embed(tokens_BT), tokens_BT.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).triu(1)
        found, _ = self.attention(hidden, hidden, hidden, attn_mask=mask, need_weights=False)
        return self.head(found + hidden)


def test_layers_that_torch_itself_never_calls_are_refused() -> None:
    model = seeded(Attention)
    with pytest.raises(ModelError, match=r"attention\.out_proj: nothing of it was seen"):
        check(model)
    check(model, ("head",))


def test_a_weight_that_is_computed_or_quantised_is_refused() -> None:
    model = seeded(lambda: Functional(called=True, elsewhere=False))
    torch.nn.utils.parametrizations.weight_norm(model.layer)
    with pytest.raises(ModelError, match=r"of 1 layers is computed .*: layer\. Fold it in"):
        refuse_other_weights(track(model, ("*",)))
    model = seeded(lambda: Functional(called=True, elsewhere=False))
    whole = model.layer.weight.to(torch.int8)
    model.layer.weight = nn.Parameter(whole, requires_grad=False)
    with pytest.raises(ModelError, match=r"is quantised and has no gradient: layer\."):
        refuse_other_weights(track(model, ("*",)))


# --- the model is causal ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_masked_language_model_is_refused(dtype: torch.dtype) -> None:
    model = seeded(tiny_bert, dtype)
    with pytest.raises(ModelError, match="BertLMHeadModel is not causal: changing a token"):
        check(model, ("*.intermediate.dense",))


class Averaging(nn.Module):
    """Each token sees a little of the mean of all."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.embed, self.head, self.share = nn.Embedding(48, 8), nn.Linear(8, 48), share

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        return self.head(torch.tanh(hidden + self.share * hidden.mean(dim=1, keepdim=True)))


class Glance(nn.Module):
    """Tokens see each other within the first few, or from some place on."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.start, self.end = start, end

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = torch.tanh(self.embed(tokens_BT))
        seen = hidden[:, self.start : self.end].sum(dim=1, keepdim=True)
        place = torch.arange(hidden.shape[1])[None, :, None]
        inside = (place >= self.start) & (place < self.end)
        return self.head(hidden + torch.where(inside, seen, 0.0))


@pytest.mark.parametrize(("start", "end"), [(0, 6), (20, 30), (28, 32)])
@pytest.mark.parametrize("alone", [False, True])
def test_a_leak_in_a_part_of_the_sequence_is_seen(start: int, end: int, alone: bool) -> None:
    with pytest.raises(ModelError, match="is not causal"):
        check(seeded(lambda: Glance(start, end)), context=32, alone=alone)


def test_a_small_leak_is_seen() -> None:
    check(seeded(lambda: Averaging(0.0)))
    with pytest.raises(ModelError, match="is not causal"):
        check(seeded(lambda: Averaging(0.05)))


# --- a neighbour changes nothing ---


class Loudest(nn.Module):
    """What is said of a sequence depends on the loudest of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        return self.head(hidden) / (1 + tokens_BT.shape[1] / 100)


def test_what_depends_on_the_longest_of_a_batch_is_refused_unless_each_is_alone() -> None:
    model = seeded(Loudest)
    with pytest.raises(ModelError, match=r"a longer one is beside it .* `batch_tokens: 1`"):
        check(model)
    check(model, alone=True)


def llama_with(rope: dict, positions: int = 16) -> nn.Module:
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        rope_parameters={"rope_theta": 10000.0, **rope},
    )
    return LlamaForCausalLM(config)


def test_angles_that_depend_on_the_longest_sequence_are_refused_with_the_context_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    model = seeded(lambda: llama_with(dynamic))
    check(model, ("*.mlp.*",), context=16)
    for cheap in (True, False):  # also where a whole forward pass would take too long
        monkeypatch.setattr("rayinfluence.model.positions._SECONDS", 10**12 if cheap else 0)
        with pytest.raises(
            ModelError,
            match=r"corpus.context: .*rotary_emb .* at most 16, or try `batch_tokens: 1`",
        ):
            check(model, ("*.mlp.*",), context=40)
    check(seeded(lambda: llama_with({"rope_type": "linear", "factor": 2.0})), ("*.mlp.*",), 40)


def test_factors_for_long_sequences_are_another_such_kind() -> None:
    config = Phi3Config(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        original_max_position_embeddings=24,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 24,
        },
    )
    model = seeded(lambda: Phi3ForCausalLM(config))
    check(model, ("*.mlp.*",), context=24)
    with pytest.raises(ModelError, match="at most 24"):
        check(model, ("*.mlp.*",), context=60)


# --- which layers are reached ---


class Multimodal(nn.Module):
    """A language model with a tower that only pictures reach, and experts that are chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))})
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(3))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        return self.head(hidden + self.experts[1](hidden))


def test_a_tower_is_left_out_and_named_and_an_expert_that_was_not_chosen_stays() -> None:
    model = seeded(Multimodal)
    tracked = track(model, ("*",))
    found = reach(model, tracked, made_up(TOKENS, CPU))
    kept, left_out = tracked_and_reached(tracked, found)
    assert found.outside == ("vision",)
    assert left_out == ["vision.mlp.0", "vision.mlp.1"]
    assert list(kept) == ["head", "experts.0.0", "experts.1.0", "experts.2.0"]
    whole = sum(weight.numel() for weight in model.parameters())
    coverage = Coverage.of(model, kept, found)
    assert coverage.reached == whole - 2 * (8 * 8 + 8)
    assert coverage.rest == {"embed.weight": 48 * 8}


def test_modules_that_text_never_reaches_are_refused_where_nothing_else_is_tracked() -> None:
    model = seeded(Multimodal)
    tracked = track(model, ("vision.*",))
    with pytest.raises(ModelError, match=r"reaches none of the 2 layers .* belong to vision\."):
        tracked_and_reached(tracked, reach(model, tracked, made_up(TOKENS, CPU)))


# --- shapes, positions, dtypes ---


class Towers(nn.Module):
    """Experts without a list, and a list of which one member is no expert."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.expert_0, self.expert_1 = nn.Linear(8, 8), nn.Linear(8, 8)
        self.towers = nn.ModuleList([nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8))])

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        return self.head(hidden + self.expert_1(hidden) + self.towers[0](hidden))


def test_experts_are_known_by_their_kind_and_numbers() -> None:
    model = seeded(Towers)
    found = reach(model, track(model, ("*",)), made_up(TOKENS, CPU))
    assert found.outside == ("towers.1",)


@pytest.mark.parametrize("cheap", [True, False])
def test_fewer_positions_than_the_configuration_says_are_refused_with_how_many_there_are(
    cheap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_gpt2(dtype=torch.float32)
    table = model.transformer.wpe
    table.weight = nn.Parameter(table.weight[:13].clone(), requires_grad=False)
    monkeypatch.setattr("rayinfluence.model.positions._SECONDS", 10**12 if cheap else 0)
    check(model, context=13)
    with pytest.raises(ModelError, match=r"fails on sequences of more than 13 tokens.*have 16"):
        check(model, context=16)


def test_a_dtype_that_the_model_cannot_compute_in_is_refused_in_words() -> None:
    class OneKernel(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            if inputs.dtype == torch.float64:
                raise RuntimeError('"conv" not implemented for Double')
            return super().forward(inputs)

    model = seeded(lambda: Functional(called=True, elsewhere=False), torch.float64)
    model.layer.__class__ = OneKernel
    with pytest.raises(ModelError, match=r"cannot run on 7 tokens in float64 .*for Double"):
        refuse_what_does_not_run(model, made_up(TOKENS, CPU))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_positions_by_distance_pass(attention: str) -> None:
    config = BloomConfig(vocab_size=48, hidden_size=16, n_layer=2, n_head=2)
    config._attn_implementation = "eager"
    check(seeded(lambda: BloomForCausalLM(config)), ("*.mlp.*",), context=32)
    other = GPT2Config(vocab_size=48, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    other._attn_implementation = attention
    check(seeded(lambda: GPT2LMHeadModel(other)), ("*.mlp.*",), context=32)


def test_nothing_is_outside_of_ordinary_models() -> None:
    for model in (tiny_gpt2(), tiny_llama(), tiny_mlp()):
        found = reach(model, track(model, ("*",)), made_up(TOKENS, CPU))
        assert isinstance(found, Reach)
        assert found.outside == ()
