"""Patterns of the families of models that are known, against autograd, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import exact, lora
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)
from two_blocks import influence_of

from rayinfluence.patterns.anatomy import FAMILIES, Anatomy, anatomy_of
from rayinfluence.patterns.gates import Change, Gates, gated
from rayinfluence.patterns.line import SKIP, Line, quadrature
from rayinfluence.patterns.question import Question
from rayinfluence.patterns.refine import refined
from rayinfluence.patterns.trace import ends, value_of
from rayinfluence.testing import tiny_gpt2
from rayinfluence.testing.models import CONTEXT, LLAMA_SIZES, VOCABULARY

TOKENS, POINTS = (3, 9, 22, 7, 5), 12


def random(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough that every term of a test counts."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.data = (1.0 if weight.ndim == 1 else 0.0) + 0.4 * noise
        weight.requires_grad_(False)
    return model.double().eval()


def bert_like(config: type, model: type, **others: object) -> nn.Module:
    made = config(
        vocab_size=VOCABULARY,
        hidden_size=12,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=20,
        **{"max_position_embeddings": CONTEXT, **others},
    )
    made._attn_implementation = "eager"
    return random(model(made))


def llama_like(config: type, model: type, **others: object) -> nn.Module:
    made = config(**LLAMA_SIZES, **others)
    # Eager attention computes its softmax in float32; the plain kernel of the other does not.
    made._attn_implementation = "sdpa"
    return exact(random(model(made)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": lambda: bert_like(BertConfig, BertForMaskedLM),
    "roberta": lambda: bert_like(
        RobertaConfig, RobertaForMaskedLM, max_position_embeddings=CONTEXT + 2, pad_token_id=1
    ),
    "gpt2": tiny_gpt2,
    "llama": lambda: llama_like(LlamaConfig, LlamaForCausalLM),
    "mistral": lambda: llama_like(MistralConfig, MistralForCausalLM, sliding_window=3),
    "qwen2": lambda: llama_like(Qwen2Config, Qwen2ForCausalLM),
    "gpt2 with an adapter": lora,
}


@dataclass(frozen=True)
class Case:
    """A model with a question and its line."""

    model: nn.Module
    anatomy: Anatomy
    question: Question
    baseline: Tensor
    line: Line


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    if request.param.endswith("adapter"):
        pytest.importorskip("peft")
    model = MODELS[request.param]()
    position = 2 if "bert" in request.param else len(TOKENS) - 1
    kept = tuple(place == position for place in range(len(TOKENS)))
    question = Question("q", TOKENS, ("",) * len(TOKENS), position, 11, 12, kept, "", "")
    baseline = model.get_input_embeddings().weight[1]
    anatomy = anatomy_of(model)
    with sdpa_kernel(SDPBackend.MATH):
        yield Case(
            model, anatomy, question, baseline, Line(model, anatomy, question, baseline, POINTS)
        )


def stopped(case: Case, positions: tuple[int, ...], ways: tuple[int, ...] | None) -> float:
    """A pattern's influence by reverse mode alone, with derivatives stopped outside of it."""
    start, step = ends(case.model, case.question, case.baseline)
    places, weights = quadrature(POINTS)
    along = (start + torch.from_numpy(places)[:, None, None] * step).requires_grad_(True)

    def at(position: int) -> Change:
        here = torch.arange(len(TOKENS))[:, None] == position
        return lambda value: torch.where(here, value, value.detach())

    def by_head(head: int) -> Change:
        def change(value: Tensor) -> Tensor:
            width = value.shape[-1] // case.anatomy.n_heads
            here = torch.arange(value.shape[-1]) // width == head
            return torch.where(here, value, value.detach())

        return change

    with ExitStack() as stack:
        for number, block in enumerate(case.anatomy.blocks):
            here, way = at(positions[number]), None if ways is None else ways[number]
            gates = Gates(
                attention=(lambda value: value.detach()) if way == SKIP else here,
                skip=here if way in (None, SKIP) else lambda value: value.detach(),
                heads=(lambda value: value) if way in (None, SKIP) else by_head(way),
                output=at(positions[number + 1]),
            )
            stack.enter_context(gated(block, gates))
        asked = value_of(case.model, case.question, along) @ torch.from_numpy(weights)
    (gradient,) = torch.autograd.grad(asked, along)
    return float((gradient[:, positions[0]] * step[positions[0]]).sum())


def test_every_family_is_tried() -> None:
    assert set(FAMILIES) <= set(MODELS)


def test_ways_add_up_at_every_block(case: Case) -> None:
    """One-block patterns: all heads and the skip connection are what flows, at each token too."""
    shares = case.line.shares
    whole = shares.positions_LT.sum(1)
    size = np.abs(shares.heads_LTH).sum()
    by_ways = shares.heads_LTH.sum(2) + shares.skips_LT
    assert by_ways.sum(1) == pytest.approx(whole[1:], abs=1e-12 * size)
    assert by_ways == pytest.approx(shares.positions_LT[1:], abs=1e-12 * size)
    assert whole == pytest.approx([whole[0]] * len(whole), abs=1e-12 * size)


def test_the_whole_is_the_gradient_times_the_step(case: Case) -> None:
    start, step = ends(case.model, case.question, case.baseline)
    places, weights = quadrature(POINTS)
    along = (start + torch.from_numpy(places)[:, None, None] * step).requires_grad_(True)
    asked = value_of(case.model, case.question, along) @ torch.from_numpy(weights)
    (gradient,) = torch.autograd.grad(asked, along)
    expected = (gradient * step).sum((0, 2)).numpy()
    assert case.line.shares.positions_LT[0] == pytest.approx(expected, abs=1e-11)
    assert case.line.starts == tuple(np.flatnonzero(step.any(1)))
    assert case.question.position not in case.line.starts


def test_patterns_are_what_stopped_derivatives_leave(case: Case) -> None:
    patterns = refined(case.line)
    assert tuple(found.start for found in patterns) == case.line.starts
    for found in patterns:
        ways = found.ways
        assert found.by_positions == pytest.approx(stopped(case, found.positions, None), abs=1e-11)
        assert found.influence == pytest.approx(stopped(case, found.positions, ways), abs=1e-11)


def test_ways_of_given_tokens_add_up(case: Case) -> None:
    n_blocks = case.line.n_blocks
    positions = (*([3] * n_blocks), case.question.position)
    each = [
        influence_of(case.line, positions, (way, *([SKIP] * (n_blocks - 2)), 0))
        for way in range(-1, case.anatomy.n_heads)
    ]
    assert all(abs(one) > 1e-9 for one in each)
    for way, one in enumerate(each, start=-1):
        ways = (way, *([SKIP] * (n_blocks - 2)), 0)
        assert one == pytest.approx(stopped(case, positions, ways), abs=1e-11)


def test_influences_tend_to_the_difference_of_values(case: Case) -> None:
    start, step = ends(case.model, case.question, case.baseline)
    before, after = value_of(case.model, case.question, torch.stack([start, start + step])).tolist()
    errors = []
    for points in (4, 24, 400):
        line = Line(case.model, case.anatomy, case.question, case.baseline, points)
        errors.append(abs(line.shares.positions_LT[0].sum() - (after - before)))
    assert errors[2] < 1e-7 * max(1.0, abs(after - before))
    assert errors[2] < errors[0]


def test_gates_change_nothing_by_themselves_and_are_gone(case: Case) -> None:
    tokens = torch.tensor([TOKENS])
    before = case.model(input_ids=tokens).logits
    with ExitStack() as stack:
        for block in case.anatomy.blocks:
            stack.enter_context(gated(block, Gates()))
        assert torch.equal(case.model(input_ids=tokens).logits, before)
    assert all(
        not module._forward_pre_hooks and not module._forward_hooks
        for block in case.anatomy.blocks
        for module in (block.whole, block.attention, block.skip, block.heads)
    )
