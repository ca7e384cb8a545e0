"""What a model returns, and for how many tokens: it works, or is a sentence at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from test_preflight import CPU, TOKENS, check, seeded
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from rayinfluence.dataflow.compute.replica import Numerics, Replica
from rayinfluence.errors import ModelError
from rayinfluence.model.batches import unpadded
from rayinfluence.model.head import forward_logits
from rayinfluence.model.load import load_model
from rayinfluence.model.modules import shapes_of, track
from rayinfluence.model.preflight import made_up, refuse_what_does_not_run

Output = Callable[[Tensor], Any]


class Returning(nn.Module):
    """Logits of each token by its embedding, returned as a test says."""

    def __init__(self, output: Output, n_logits: int = 48) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(48, 8), nn.Linear(8, 8)
        self.head, self.output = nn.Linear(8, n_logits), output

    def forward(self, tokens_BT: Tensor) -> Any:
        hidden = self.embed(tokens_BT)
        return self.output(self.head(hidden + torch.tanh(self.layer(hidden))))


WORKS: dict[str, Output] = {
    "a tensor": lambda logits: logits,
    "a dict": lambda logits: {"logits": logits},
    "an object": lambda logits: SimpleNamespace(logits=logits),
    "a tuple": lambda logits: (logits,),
    "a loss of nothing": lambda logits: (logits, None),
    "a loss before": lambda logits: (logits.mean(), logits, [logits]),
}


class Odd(nn.Linear):
    """Takes its input by a name of its own, or gives more than one tensor."""

    gives: ClassVar[Any] = None

    def forward(self, hidden_states: Tensor) -> Any:
        output = super().forward(hidden_states)
        return (output, None) if self.gives is tuple else output


class Pair(Odd):
    """Gives its bias beside its output, as layers of Megatron do."""

    gives = tuple


class Calling(nn.Module):
    """Calls a layer by keyword."""

    def __init__(self, layer: type[nn.Linear]) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(48, 8), layer(8, 8), nn.Linear(8, 48)
        self.name = "hidden_states" if issubclass(layer, Odd) else "input"

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        found = self.layer(**{self.name: hidden})
        return self.head(hidden + torch.tanh(found[0] if isinstance(found, tuple) else found))


@pytest.mark.parametrize("layer", [nn.Linear, Odd])
def test_a_layer_that_is_called_by_keyword_is_tracked(layer: type[nn.Linear]) -> None:
    model = seeded(lambda: Calling(layer))
    assert check(model, ("layer",)).gradients < 1e-4
    assert [shape.source for shape in shapes_of(model, track(model, ["*"])).values()] == [
        "layer",
        "head",
    ]


def test_a_layer_that_gives_more_than_a_tensor_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"modules: layer \(Pair\) gives a tuple, and .* Leave it"):
        check(seeded(lambda: Calling(Pair)), ("layer",))


REFUSED: dict[str, tuple[Output, str]] = {
    "tokens first": (
        lambda logits: logits.transpose(0, 1),
        r"gives a tensor \[7, 2, 48\] of float32 for 2 sequences of 7 tokens, .* \[2, 7, vocab",
    ),
    "the last alone": (lambda logits: logits[:, -1], r"a tensor \[2, 48\] of float32 for 2 seq"),
    "one place alone": (lambda logits: logits[:, -1:], r"a tensor \[2, 1, 48\] .* for 2 seq"),
    "flat": (lambda logits: logits.flatten(0, 1), r"a tensor \[14, 48\] .* for 2 sequences"),
    "tokens": (lambda logits: logits.argmax(-1), r"a tensor \[2, 7\] of int64 for 2 sequences"),
    "two that may be": (lambda logits: (logits, logits), r"a tuple of a tensor .*, a tensor \["),
    "a dict without": (lambda logits: {"scores": logits}, r"gives no logits for 2 sequences"),
    "nothing": (lambda logits: None, r"gives no logits for 2 sequences of 7 tokens"),
    "a text": (lambda logits: "w1", r"gives a str for 2 sequences"),
}


@pytest.mark.parametrize("what", WORKS)
def test_logits_are_found_in_what_a_model_returns(what: str) -> None:
    check(seeded(lambda: Returning(WORKS[what])))


@pytest.mark.parametrize("what", REFUSED)
def test_what_are_no_logits_of_each_token_is_refused_at_once(what: str) -> None:
    output, said = REFUSED[what]
    with pytest.raises(ModelError, match=f"Returning gives .*{said.removeprefix('gives ')}"):
        refuse_what_does_not_run(seeded(lambda: Returning(output)), made_up(TOKENS, CPU))


def small(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        **more,
    )


def test_a_model_whose_config_asks_for_tuples_works(tmp_path: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(small(return_dict=False)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["return_dict"] is False
    model = load_model(str(tmp_path), torch.float32)
    assert forward_logits(model, unpadded(made_up(TOKENS, CPU))).shape == (2, 7, 48)
    check(model, ("*.mlp.*",))


# --- tokens that are never said ---


@pytest.mark.parametrize("value", [float("-inf"), -1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("never", [[7], [0, 8, 16, 24, 32], list(range(20, 48))])
def test_tokens_that_are_never_said_are_no_fault(value: float, never: list[int]) -> None:
    def masked(logits: Tensor) -> Tensor:
        ids = torch.arange(48)
        return logits.masked_fill(torch.isin(ids, torch.tensor(never)), value)

    check(seeded(lambda: Returning(masked)))
    # And what is said of others is looked at as ever.
    with pytest.raises(ModelError, match="is not causal"):
        check(seeded(lambda: Returning(lambda x: masked(x + 0.2 * x.mean(1, keepdim=True)))))
    with pytest.raises(ModelError, match="longer one is beside it"):
        check(seeded(lambda: Returning(lambda x: masked(x * (1 + 0.01 * x.shape[1])))))


def test_where_hardly_a_token_may_be_said_it_is_said_so() -> None:
    def one_alone(logits: Tensor) -> Tensor:
        return logits.masked_fill(torch.arange(48) != 5, float("-inf"))

    with pytest.raises(ModelError, match=r"no more than 1 of 40 ordinary tokens a probability"):
        check(seeded(lambda: Returning(one_alone)))


def test_where_targets_are_ruled_out_by_what_stands_before_them_it_is_said_so() -> None:
    class Repetitive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)

        def forward(self, tokens_BT: Tensor) -> Tensor:
            other = tokens_BT[:, :, None] != torch.arange(48)
            return self.head(self.embed(tokens_BT)).masked_fill(other, float("-inf"))

    with pytest.raises(ModelError, match=r"gives tokens .* no probability \(-inf\) where they"):
        check(seeded(Repetitive))


def test_infinity_of_the_other_sign_is_still_an_overflow() -> None:
    for value in (float("inf"), float("nan")):
        model = seeded(lambda value=value: Returning(lambda logits: logits + value))
        with pytest.raises(ModelError, match=r"says nothing finite .* activations overflow"):
            check(model)


# --- fewer logits than embeddings ---


def test_tokens_without_a_logit_are_outside_of_the_vocabulary() -> None:
    check(seeded(lambda: Returning(lambda logits: logits, n_logits=30)))
    model = seeded(lambda: LlamaForCausalLM(small()))
    model.lm_head = nn.Linear(16, 30, bias=False).requires_grad_(False)
    check(model, ("*.mlp.*",))
    layers = track(model, ["*.mlp.*"])
    replica = Replica(model, layers, Numerics("float32", "cpu", 64, 64, "eager", 0))
    assert replica.vocabulary == 30


# --- masks that are shorter than positions ---


class Masked(nn.Module):
    """Two blocks of attention by a mask that is kept in a buffer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"mix": nn.Linear(8, 8), "out": nn.Linear(8, 8)}) for _ in range(2)
        )
        self.register_buffer("mask", torch.ones(size, size).tril() == 0)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden, n = self.embed(tokens_BT), tokens_BT.shape[1]
        for block in self.blocks:
            scores = (hidden @ hidden.transpose(1, 2)).masked_fill(self.mask[:n, :n], -1e9)
            hidden = hidden + block["out"](scores.softmax(-1) @ block["mix"](hidden))
        return self.head(hidden)


@pytest.mark.parametrize("size", [10, 20, 90])
@pytest.mark.parametrize("patterns", [("*",), ("*.mix",), ("*.out", "head")])
def test_a_mask_that_is_shorter_than_the_context_asks_for_a_shorter_context(
    size: int, patterns: tuple[str, ...]
) -> None:
    model = seeded(lambda: Masked(size))
    check(model, patterns, context=size)
    said = rf"corpus\.context: .* more than {size} tokens, .*have 100.* Set it to at most {size}\."
    with pytest.raises(ModelError, match=said):
        check(model, patterns, context=100)


def test_the_whole_context_of_a_large_model_is_tried_in_its_first_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = seeded(lambda: Masked(90))
    n_weights = sum(weight.numel() for weight in model.parameters())
    monkeypatch.setattr("rayinfluence.model.positions._SECONDS", 110 * n_weights)
    with pytest.raises(ModelError, match=r"corpus\.context: .* Set it to at most 90\."):
        check(model, context=100)
