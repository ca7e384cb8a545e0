"""The part of a layer in models of people's own code, however its modules are called and nested."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import chosen
from rayinfluence.model.parts import Part, parts_of
from rayinfluence.model.preflight import made_up
from rayinfluence.testing import tiny_convolutions, tiny_gpt2, tiny_mlp

WIDTH = 8
TOKENS = made_up(range(40), torch.device("cpu"))


def parts(make: Callable[[], nn.Module]) -> dict[str, Part]:
    torch.manual_seed(0)
    return parts_of(freeze(make()), TOKENS)


def attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)


class Flat(nn.Module):
    """A block that holds all its layers itself, by names that tell nothing."""

    def __init__(self, parallel: bool = False, post: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c, self.d = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)
        self.parallel, self.post = parallel, post
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        given = x if self.post else self.norm(x)
        mixed = self.b(attended(*self.a(given).chunk(3, dim=-1)))
        if self.parallel:
            return x + mixed + self.d(self.c(given).relu())
        x = self.norm(x + mixed) if self.post else x + mixed
        return x + self.d(self.c(self.norm(x)).relu())


class Experts(nn.Module):
    """Experts that are called with the tokens that chose them, beside one that all share."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, 1)
        self.others = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 5), nn.ReLU(), nn.Linear(5, WIDTH)) for _ in range(3)
        )
        self.shared = nn.Sequential(nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        weights, chosen = self.x(rows).softmax(dim=-1).topk(1)
        out = torch.zeros_like(rows)
        for number in chosen.unique().tolist():
            mine = (chosen == number).any(dim=-1).nonzero()[:, 0]
            out = out.index_add(0, mine, self.others[number](rows[mine]) * weights[mine])
        out = out + self.shared(rows) * self.y(rows).sigmoid()
        return x + out.view_as(x)


class Judging(nn.Module):
    """Experts whose router is an MLP itself, with layers wider than the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 20), nn.Linear(20, 20)
        self.says = nn.Linear(20, 3)
        self.up, self.down = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.says(self.second(self.first(x).relu()).relu()).softmax(dim=-1)
        each = self.up(x).relu().unflatten(-1, (3, WIDTH))
        return x + self.down((each * shares[..., None]).sum(dim=-2))


class Shifted(nn.Module):
    """Channel mixing that sees the token before, and whose gate is as wide as the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.r = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        before = nn.functional.pad(x, (0, 0, 1, -1))
        return x + self.v(self.k(0.5 * (x + before)).relu()) * self.r(x).sigmoid()


class Fused(nn.Module):
    """Attention of which only keys and values are a layer; the rest are parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = nn.Linear(WIDTH, 2 * WIDTH)
        self.query = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return attended(x @ self.query, *self.kv(x).chunk(2, dim=-1))


class Attending(nn.Module):
    """A block whose attention is a module of its own, beside a layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dense = Fused(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.inner(x)
        return x + self.dense(x).tanh()


class Low(nn.Module):
    """Attention by low ranks on both sides, and a gate of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, 3), nn.Linear(3, 3 * WIDTH)
        self.c, self.d = nn.Linear(WIDTH, 3), nn.Linear(3, WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        mixed = attended(*self.b(self.a(x)).chunk(3, dim=-1))
        return x + self.d(self.c(mixed * self.gate(x).sigmoid()))


class Model(nn.Module):
    """Of some blocks in a list, with a head that is no block."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, WIDTH)
        self.blocks = nn.ModuleList(blocks)
        self.before, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 48)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x = self.embed(tokens_BT)
        for block in self.blocks:
            x = block(x)
        return self.head(self.before(x).tanh())


@pytest.mark.parametrize(("parallel", "post"), [(False, False), (True, False), (False, True)])
def test_in_a_flat_block_attention_and_mlp_are_told_apart(parallel: bool, post: bool) -> None:
    found = parts(lambda: Model(Flat(parallel, post), Flat(parallel, post)))
    expected = {"a": "attention", "b": "attention", "c": "mlp", "d": "mlp"}
    assert found == {f"blocks.{n}.{name}": part for n in (0, 1) for name, part in expected.items()}


def test_routers_and_gates_are_none_of_the_mlp_and_experts_are_whether_or_not_they_are_chosen() -> (
    None
):
    class OneExpert(Experts):
        def forward(self, x: Tensor) -> Tensor:
            self.x.bias.data[1] = 100.0
            return super().forward(x)

    for kind in (Experts, OneExpert):
        found = parts(lambda kind=kind: Model(Flat(), kind()))
        of_experts = {name: part for name, part in found.items() if name.startswith("blocks.1.")}
        assert {name for name, part in of_experts.items() if part == "router"} == {
            "blocks.1.x",
            "blocks.1.y",
        }
        mlps = [name for name, part in of_experts.items() if part == "mlp"]
        assert mlps == [f"blocks.1.others.{n}.{k}" for n in range(3) for k in (0, 2)] + [
            "blocks.1.shared.0",
            "blocks.1.shared.2",
        ]


def test_the_inner_layers_of_a_router_are_none_of_the_mlp_however_wide_they_are() -> None:
    assert parts(lambda: Model(Judging())) == {
        **dict.fromkeys((f"blocks.0.{name}" for name in ("first", "second", "says")), "router"),
        **dict.fromkeys((f"blocks.0.{name}" for name in ("up", "down")), "mlp"),
    }


def test_a_shift_before_an_mlp_and_a_gate_as_wide_as_the_stream_leave_it_an_mlp() -> None:
    found = parts(lambda: Model(Flat(), Shifted(), Flat()))
    assert {found[f"blocks.1.{name}"] for name in "kvr"} == {"mlp"}
    assert found["blocks.2.a"] == "attention"


def test_attention_is_known_where_most_of_it_is_no_layer() -> None:
    found = parts(lambda: Model(Attending(), Attending()))
    assert found["blocks.1.inner.kv"] == "attention"
    assert found["blocks.1.dense"] == "mlp"


def test_low_ranks_and_gates_of_attention_are_of_it() -> None:
    found = parts(lambda: Model(Low(), Low()))
    assert set(found.values()) == {"attention"}
    assert len(found) == 10


def test_what_is_outside_of_blocks_has_no_part() -> None:
    found = parts(lambda: Model(Flat()))
    assert "before" not in found
    assert "head" not in found


def test_blocks_may_be_a_sequence_and_an_mlp_a_sequence_of_layers() -> None:
    def layered() -> nn.Module:
        return nn.Sequential(
            nn.Embedding(48, WIDTH), Flat(), Flat(), nn.Sequential(nn.Linear(WIDTH, 48))
        )

    assert list(parts(layered)) == [f"{n}.{name}" for n in (1, 2) for name in "abcd"]


def test_without_lists_all_but_the_head_is_a_block() -> None:
    assert parts(tiny_mlp) == {"inner": "mlp", "plain": "mlp"}


def test_an_mlp_before_a_narrow_head_is_no_router() -> None:
    """All that it gives goes to what gives less than the stream is wide."""
    model = nn.Sequential(
        nn.Embedding(48, 64), nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 80), nn.Linear(80, 48)
    )
    assert parts(lambda: model) == {"1": "mlp", "3": "mlp"}


def test_convolutions_over_tokens_mix_them_and_where_there_is_no_mlp_all_are_tracked() -> None:
    model = tiny_convolutions()
    found = parts_of(model, TOKENS)
    assert found == {"first": "attention", "second": "attention"}
    assert list(chosen(model, "mlp", found)) == ["first", "second"]


def test_what_is_asked_for_is_tracked_and_nothing_is_refused() -> None:
    model = tiny_gpt2()
    found = parts_of(model, TOKENS)
    assert {n.split(".")[3] for n in chosen(model, "attention", found)} == {"attn"}
    assert len(chosen(model, "all", found)) == 8
    mlp = freeze(tiny_mlp())
    with pytest.raises(ModelError, match=r"by attention nothing .* mixes .* are inner, plain"):
        chosen(mlp, "attention", parts_of(mlp, TOKENS))


def test_the_model_says_the_same_afterwards_and_keeps_no_hooks() -> None:
    model = tiny_gpt2()
    before = model(TOKENS).logits
    parts_of(model, TOKENS)
    assert torch.equal(model(TOKENS).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(w.requires_grad or w.grad is not None for w in model.parameters())
