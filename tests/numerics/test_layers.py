"""Kinds of layers, and the rows that are captured of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import naive
import pytest
import torch
from compare import assert_same
from device import DEVICE
from scaling import Scaled, Scaling
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rayinfluence.model import layers
from rayinfluence.model.batches import make_batch
from rayinfluence.model.layers import (
    Embedding,
    Linear,
    TokenConvolution,
    TransposedLinear,
    is_layer,
)
from rayinfluence.model.rows import Rows
from rayinfluence.testing.layers import LayerConformance


class TestLinear(LayerConformance):
    kind = Linear

    def module(self) -> nn.Module:
        return nn.Linear(4, 3)


class TestLinearOnTokensInOneRow(LayerConformance):
    """As OPT calls its MLPs."""

    kind = Linear

    def module(self) -> nn.Module:
        return nn.Linear(4, 3, bias=False)

    def given(self, tokens_BTD: Tensor) -> Tensor:
        return tokens_BTD.flatten(0, 1)


class TestTransposedLinear(LayerConformance):
    kind = TransposedLinear

    def module(self) -> nn.Module:
        return Conv1D(3, 4)


class TestEmbedding(LayerConformance):
    """Of ids, which a number of the hidden states stands for."""

    kind = Embedding
    width = 1

    def module(self) -> nn.Module:
        return nn.Embedding(97, 3)

    def others(self) -> Sequence[nn.Module]:
        return [nn.Embedding(4, 4, max_norm=1.0), nn.Embedding(4, 4, scale_grad_by_freq=True)]

    def given(self, tokens_BTD: Tensor) -> Tensor:
        return (tokens_BTD[..., 0] * 16).round().long() % 97


class TestConvolutionThatPads(LayerConformance):
    kind = TokenConvolution
    width = 4

    def module(self) -> nn.Module:
        return nn.Conv1d(4, 3, 3, padding=2)

    def others(self) -> Sequence[nn.Module]:
        return [nn.Conv1d(4, 4, 3, padding=2, groups=4), nn.Conv1d(4, 4, 3, padding="same")]

    def given(self, tokens_BTD: Tensor) -> Tensor:
        return tokens_BTD.transpose(1, 2)


class TestConvolutionOfWhatIsPadded(LayerConformance):
    kind = TokenConvolution
    width = 4

    def module(self) -> nn.Module:
        return nn.Conv1d(4, 3, 2, bias=False, dilation=2)

    def given(self, tokens_BTD: Tensor) -> Tensor:
        return nn.functional.pad(tokens_BTD.transpose(1, 2), (2, 0))


class OfAnother(LayerConformance):
    """Tests of a kind that is not in the tree: its line in the registry is the only one."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def registered(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layers, "LAYERS", (*layers.LAYERS, cls.kind()))
            yield


class TestScaled(OfAnother):
    kind = Scaled

    def module(self) -> nn.Module:
        return Scaling(4, 3, learned=True)

    def test_references_know_it(self) -> None:
        """Also of gradients with an axis before those of the weight."""
        module = self.module()
        joined = naive.joined(module, module.weight, module.bias)
        expected = torch.cat([module.weight.T, module.bias[:, None]], dim=1)
        assert torch.equal(joined, expected)
        stacked = (torch.stack([one, 2 * one]) for one in (module.weight, module.bias))
        assert torch.equal(naive.joined(module, *stacked), torch.stack([expected, 2 * expected]))
        given, gradient = torch.randn(1, 5, 4), torch.randn(1, 5, 3)
        ours, theirs = naive.rows(module, given, gradient, 5)
        assert torch.equal(ours, given[0] * module.scale)
        assert torch.equal(theirs, gradient[0])


class Neighbours(Scaled):
    """Takes the rows of one sequence for those of another, on both sides."""

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        return super().inputs(module, given, n_tokens).roll(1, dims=0)

    def grads(self, module: nn.Module, gradient: Tensor, n_tokens: int) -> Tensor:
        return gradient.roll(1, dims=0)


class Short(Scaled):
    """Knows sequences of five tokens alone, and leaves the sixth out."""

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        return super().inputs(module, given[:, :5], n_tokens)

    def grads(self, module: nn.Module, gradient: Tensor, n_tokens: int) -> Tensor:
        return gradient[:, :5]


class Turned(Scaled):
    """Has the right rows, and takes their order for the other one where there are not five."""

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        rows = super().inputs(module, given, n_tokens)
        return rows if n_tokens == 5 else rows.flip(1)

    def grads(self, module: nn.Module, gradient: Tensor, n_tokens: int) -> Tensor:
        return gradient if n_tokens == 5 else gradient.flip(1)


class Greedy(Scaled):
    """Takes everything."""

    def fits(self, module: nn.Module) -> bool:
        return True


class Unscaled(Scaled):
    """Its rows are not what the weight multiplies."""

    def inputs(self, module: nn.Module, given: Tensor, n_tokens: int) -> Tensor:
        return given


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Neighbours, "test_rows_are_of_their_sequences"),
        (Short, "test_rows_are_of_tokens"),
        (Turned, "test_rows_are_of_tokens"),
        (Greedy, "test_it_takes_no_other_modules"),
        (Unscaled, "test_the_weight_multiplies_the_rows"),
        (Unscaled, "test_gradients_are_those_of_autograd"),
    ],
)
def test_a_kind_that_is_none_is_found_out(
    kind: type[Scaled], test: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tried in (Scaled, kind):
        monkeypatch.setattr(layers, "LAYERS", (tried(),))
        suite = TestScaled()
        suite.setup_method()
        if tried is Scaled:
            getattr(suite, test)()
    with pytest.raises(AssertionError):
        getattr(suite, test)()


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(4, 4, 3, padding=2, groups=4),
        nn.Conv1d(4, 4, 3, padding=2, stride=2),
        nn.Conv1d(4, 4, 3, padding="same"),
        nn.Conv1d(4, 4, 3, padding=2, padding_mode="circular"),
        nn.Conv2d(4, 4, 3),
        nn.Embedding(4, 4, max_norm=1.0),
    ],
    ids=["by channel", "of every other", "both ways", "around", "of pictures", "renormed"],
)
def test_other_modules_are_no_layers(module: nn.Module) -> None:
    assert not is_layer(module)


# --- rows in any order ---

SHAPE = 3, 4
D_IN, D_OUT = 5, 2


def random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)


def two_calls() -> tuple[Rows, Rows]:
    """Rows of a layer that is called twice with all tokens, and the same in another order."""
    inputs, grads = random(0, 3, 8, D_IN), random(1, 3, 8, D_OUT)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    places_BR = torch.arange(3)[:, None] * 4 + torch.arange(8) % 4
    places_N = places_BR.flatten().to(DEVICE)[order]
    rows = inputs.flatten(0, 1)[order], grads.flatten(0, 1)[order]
    return Rows(inputs, grads, 4), Rows.scattered(*rows, places_N, SHAPE)


def of_each(rows: Rows) -> Tensor:
    """D [B, O, I]."""
    return rows.grads_BRO.transpose(1, 2) @ rows.inputs_BRI


def test_rows_in_any_order_are_those_of_their_sequences_and_tokens() -> None:
    dense, scattered = two_calls()
    assert_same(of_each(scattered), of_each(dense), "D")
    for ours, theirs in zip(scattered.by_call(), dense.by_call(), strict=True):
        assert_same(ours.sum(dim=1), theirs.sum(dim=1), "by token")
    for ours, theirs in zip(scattered.of_sequence(1, 3), dense.of_sequence(1, 3), strict=True):
        assert ours.shape == theirs.shape
        assert_same(ours.sum(dim=0), theirs.sum(dim=0), "of one sequence")


def test_padding_is_left_out_whatever_the_order() -> None:
    dense, scattered = two_calls()
    batch = make_batch([torch.arange(n).numpy() for n in (4, 1, 3)], range(3), DEVICE)
    ours, theirs = scattered.real_inputs(batch), dense.real_inputs(batch)
    assert ours.shape == theirs.shape == (16, D_IN)
    assert_same(ours.T @ ours, theirs.T @ theirs)


def test_a_router_may_choose_any_tokens() -> None:
    places = torch.tensor([6, 1, 4], device=DEVICE)  # none of the last sequence
    inputs, grads = random(3, 3, D_IN), random(4, 3, D_OUT)
    rows = Rows.scattered(inputs, grads, places, SHAPE).to(torch.float32).to(torch.float64)
    assert rows.tokens_BR is not None
    assert rows.tokens_BR.tolist() == [[1, -1], [0, 2], [-1, -1]]
    by_sequence = [grads[1:2].T @ inputs[1:2], grads[[0, 2]].T @ inputs[[0, 2]]]
    assert_same(of_each(rows)[:2], torch.stack(by_sequence), tolerance=1e-6)
    assert not of_each(rows)[2].any()
    batch = make_batch([torch.arange(n).numpy() for n in (4, 2, 1)], range(3), DEVICE)
    assert_same(rows.real_inputs(batch), inputs[[1, 2]], tolerance=1e-6)
    at_tokens, _ = rows.by_call()
    assert at_tokens.shape == (3, 1, 4, D_IN)
    assert_same(at_tokens[1, 0, 2], inputs[0], tolerance=1e-6)


def test_no_rows_at_all_are_nothing() -> None:
    nowhere = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    rows = Rows.scattered(random(0, 0, D_IN), random(0, 0, D_OUT), nowhere, SHAPE)
    assert not of_each(rows).any()
    inputs, grads = rows.by_call()
    assert inputs.shape == (3, 1, 4, D_IN)
    assert not grads.any()
