"""Layers without a gradient are named, with why; an expert may have to wait for its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_preflight import check, seeded
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.testing import tiny_llama


class Mixture(nn.Module):
    """Experts that a router chooses: by weights, or by the place of the largest alone."""

    def __init__(self, how: str = "weights", n_experts: int = 2) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.router = nn.Linear(8, n_experts)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(n_experts))
        self.how = how

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        seen = hidden
        scores = self.router(hidden)
        if self.how == "weights":
            weights = scores.softmax(dim=-1)
        else:
            weights = nn.functional.one_hot(scores.argmax(dim=-1), scores.shape[-1]).float()
        for place, expert in enumerate(self.experts):
            seen = seen + weights[..., place, None] * torch.tanh(expert(hidden))
        return self.head(seen)


class Used(nn.Module):
    """A layer of which the output is used as a test says."""

    def __init__(self, use: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.layer, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.zeros(1))
        self.use = use

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        return self.head(hidden + torch.tanh(self.other(hidden)) + self.use(self, hidden))


WITHOUT: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "detached": lambda model, x: torch.tanh(model.layer(x)).detach(),
    "rounded": lambda model, x: model.layer(x).round(),
    "compared": lambda model, x: (model.layer(x) > 0).float(),
    "the largest": lambda model, x: model.layer(x).argmax(dim=-1, keepdim=True).float(),
    "thrown away": lambda model, x: 0.0 * model.layer(x),
    "without gradients": lambda model, x: torch.no_grad()(model.layer)(x),
}


@pytest.mark.parametrize("what", WITHOUT)
@pytest.mark.parametrize("alone", [False, True])
def test_a_layer_without_a_gradient_is_refused_by_name(what: str, alone: bool) -> None:
    model = seeded(lambda: Used(WITHOUT[what]))
    said = r"1 layers are called, and no gradient .*: layer\. .* Leave them out of `modules`\."
    with pytest.raises(ModelError, match=said):
        check(model, alone=alone)
    check(model, ("other", "head"), alone=alone)  # as it says
    with pytest.raises(ModelError, match=r"no tracked module takes .*layer\)|all 1 tracked layers"):
        check(model, ("layer",))


def test_a_router_that_only_chooses_is_refused_and_its_experts_are_not() -> None:
    with pytest.raises(ModelError, match=r"1 layers are called, .*: router\. .* only chooses"):
        check(seeded(lambda: Mixture("argmax")))
    check(seeded(lambda: Mixture("argmax")), ("experts.*", "head"))
    check(seeded(lambda: Mixture()))


def test_an_expert_that_no_made_up_token_chose_is_not_refused() -> None:
    model = seeded(lambda: Mixture("argmax", n_experts=4))
    model.router.bias.data[2] = -1e9
    check(model, ("experts.*", "head"))


class Blocks(nn.Module):
    """Blocks of two layers, of which one block's second may be zero, as new blocks are."""

    def __init__(self, zero: int | None) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(8, 16), "down": nn.Linear(16, 8, bias=False)})
            for _ in range(3)
        )
        if zero is not None:
            self.blocks[zero]["down"].weight.data.zero_()

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        for block in self.blocks:
            hidden = hidden + block["down"](torch.tanh(block["up"](hidden)))
        return self.head(hidden)


def test_blocks_that_all_have_gradients_pass() -> None:
    check(seeded(lambda: Blocks(zero=None)))


def test_that_the_weights_behind_a_layer_are_zeros_is_said() -> None:
    with pytest.raises(ModelError, match=r"of 1 layers is exactly zero: blocks\.1\.up") as caught:
        check(seeded(lambda: Blocks(zero=1)))
    assert "other weights are all zeros: blocks.1.down.weight. " in str(caught.value)
    check(seeded(lambda: Blocks(zero=1)), ("blocks.0.*", "blocks.2.*", "blocks.1.down"))


DEAD = {
    "detached": lambda block, x: block["down"](torch.tanh(block["up"](x))).detach(),
    "multiplied by zero": lambda block, x: 0.0 * block["down"](torch.tanh(block["up"](x))),
}


@pytest.mark.parametrize("what", DEAD)
@pytest.mark.parametrize("place", range(3))
def test_a_block_all_of_whose_layers_are_dead_is_no_expert_that_waits(
    what: str, place: int
) -> None:
    """Blocks stand in a list too, and each gets what the one before it gives."""

    class Dying(Blocks):
        def forward(self, tokens_BT: Tensor) -> Tensor:
            hidden = self.embed(tokens_BT)
            for number, block in enumerate(self.blocks):
                if number == place:
                    hidden = hidden + DEAD[what](block, hidden)
                else:
                    hidden = hidden + block["down"](torch.tanh(block["up"](hidden)))
            return self.head(hidden)

    both = rf"blocks\.{place}\.up, blocks\.{place}\.down"
    said = rf"2 layers are called, and no gradient .*: {both}\. "
    with pytest.raises(ModelError, match=said):
        check(seeded(lambda: Dying(zero=None)))


def test_a_block_that_was_inserted_with_zeros_is_refused_with_why() -> None:
    """Its output projections are all zeros, and nothing else of it is tracked."""
    model = tiny_llama(dtype=torch.float32)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        model.get_submodule(f"model.layers.1.{name}").weight.data.zero_()
    with pytest.raises(
        ModelError, match=r"of 2 layers is exactly zero: model\.layers\.1\.mlp\."
    ) as caught:
        check(model, ("*.gate_proj", "*.up_proj"))
    assert "are all zeros: model.layers.1.mlp.down_proj.weight" in str(caught.value)


class LowRank(nn.Module):
    """A frozen layer with an update of low rank, which begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.base = nn.Linear(8, 8)
        self.a, self.b = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        self.b.weight.data.zero_()

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        return self.head(hidden + torch.tanh(self.base(hidden) + self.b(self.a(hidden))))


def test_an_update_that_begins_at_zero_is_told_from_a_layer_that_leads_nowhere() -> None:
    model = seeded(LowRank)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with pytest.raises(ModelError, match=r"exactly zero: a, as other weights .*: b\.weight\. "):
        check(model)
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    check(model, ("base", "b", "head"))


def test_a_scale_of_zero_is_named() -> None:
    model = seeded(lambda: Used(lambda model, x: model.scale * model.layer(x)))
    with pytest.raises(ModelError, match=r"exactly zero: layer, .* are all zeros: scale\. "):
        check(model)


def test_where_nothing_has_a_gradient_the_head_of_zeros_is_named() -> None:
    model = seeded(Mixture)
    model.head.weight.data.zero_()
    with pytest.raises(
        ModelError, match=r"of all 3 tracked layers is exactly zero: .* zeros: head\.weight\."
    ):
        check(model, ("experts.*", "router"))


def test_the_random_numbers_of_the_process_are_as_they_were() -> None:
    model = seeded(LowRank)
    state = torch.get_rng_state()
    with pytest.raises(ModelError):
        check(model)
    assert torch.equal(state, torch.get_rng_state())
