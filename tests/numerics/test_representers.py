"""Representer points in float64: sums, a dense computation, stationarity, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rayinfluence.errors import ModelError
from rayinfluence.influence.representers import (
    LastLayerFit,
    Points,
    RepresenterBank,
    stack_representers,
)
from rayinfluence.model.batches import unpadded
from rayinfluence.model.last_layer import LastLayer
from rayinfluence.model.targets import NextTokens
from rayinfluence.testing.models import (
    VOCABULARY,
    tiny_gpt2,
    tiny_llama,
    tiny_mlp,
    tiny_opt,
)

N, V, D = 90, 7, 5
TOLERANCE = 1e-6


def _points(weighted: bool) -> list[Points]:
    """Of two splits, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    features_ND = torch.randn(N, D, generator=generator, dtype=torch.float64) + 1
    labels_N = torch.randint(0, V, (N,), generator=generator)
    weights_N = torch.rand(N, generator=generator, dtype=torch.float64) if weighted else None
    whole = Points(features_ND, labels_N, weights_N)
    first_N = torch.arange(N) < 40
    return [whole.at(first_N), whole.at(~first_N)]


def _before() -> Tensor:
    return torch.randn(V, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _objective(weight_VD: Tensor, points: list[Points], l2: float) -> Tensor:
    """J, written out."""
    total = torch.zeros((), dtype=torch.float64)
    for some in points:
        log_p_NV = torch.log_softmax(some.features_ND @ weight_VD.T, dim=1)
        loss_N = -log_p_NV.gather(1, some.labels_N[:, None])[:, 0]
        total = total + (loss_N if some.weights_N is None else loss_N * some.weights_N).sum()
    return total / N + l2 * weight_VD.square().sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_its_value_and_gradient_are_autograd_s(weighted: bool) -> None:
    points, weight_VD = _points(weighted), _before().requires_grad_(True)
    fit = LastLayerFit(points, _before(), 0.02, 1.0)
    expected = _objective(weight_VD, points, 0.02)
    (gradient_VD,) = torch.autograd.grad(expected, weight_VD)
    found, ours_VD = fit.value(weight_VD.detach())
    assert found == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(ours_VD, gradient_VD, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("weighted", [False, True])
def test_all_representers_add_up_to_the_logits(weighted: bool) -> None:
    """To what the fit says is left; and each is the formula, written out."""
    points = _points(weighted)
    fit = LastLayerFit(points, _before(), 0.02, 1.0)
    found = fit.end(fit.run(fit.begin(), 1000, TOLERANCE), torch.float64)
    assert found.residual <= TOLERANCE
    assert found.loss < found.loss_before
    assert 0 < found.correlation < 1
    asked_KD = torch.randn(3, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels_K, coefficients_K = torch.tensor([0, 3, 3]), torch.tensor([1.0, 2.0, -0.5]).double()
    one = {"features": asked_KD[:2], "labels": labels_K[:2], "coefficients": coefficients_K[:2]}
    other = {"features": asked_KD[2:], "labels": labels_K[2:], "coefficients": coefficients_K[2:]}
    tensors = stack_representers([one, other])
    bank = RepresenterBank(["a", "b"], tensors, found.weight_VD, found.l2, found.n_points)
    values_NQ = torch.cat([bank.values(some) for some in points])
    logits_K = (found.weight_VD @ asked_KD.T)[labels_K, torch.arange(3)] * coefficients_K
    logits_Q = torch.stack([logits_K[:2].sum(), logits_K[2:].sum()])
    left_K = (found.residual_VD @ asked_KD.T)[labels_K, torch.arange(3)] * coefficients_K
    left_Q = torch.stack([left_K[:2].sum(), left_K[2:].sum()])
    torch.testing.assert_close(values_NQ.sum(dim=0), logits_Q - left_Q, rtol=0, atol=1e-12)
    torch.testing.assert_close(values_NQ.sum(dim=0), logits_Q, rtol=0, atol=1e-5)
    expected_NQ = []
    for some in points:
        p_NV = torch.softmax(some.features_ND @ found.weight_VD.T, dim=1)
        weights_N = torch.ones(len(some)) if some.weights_N is None else some.weights_N
        alphas_NV = (one_hot(some.labels_N, V) - p_NV) * weights_N[:, None] / (2 * 0.02 * N)
        of_targets = alphas_NV[:, labels_K] * (some.features_ND @ asked_KD.T) * coefficients_K
        expected_NQ.append(torch.stack([of_targets[:, :2].sum(1), of_targets[:, 2]], dim=1))
    torch.testing.assert_close(values_NQ, torch.cat(expected_NQ), rtol=1e-10, atol=1e-13)


def test_short_of_stationarity_the_residual_says_how_far_the_sum_is_off() -> None:
    points = _points(False)
    fit = LastLayerFit(points, _before(), 0.02, 1.0)
    found = fit.end(fit.begin(), torch.float64)
    assert found.residual > 0.1
    tensors = {
        "features": torch.eye(D, dtype=torch.float64),
        "labels": torch.zeros(D, dtype=torch.int64),
        "coefficients": torch.ones(D),
        "queries": torch.arange(D),
    }
    bank = RepresenterBank(["q"] * D, tensors, found.weight_VD, found.l2, found.n_points)
    total_D = sum(bank.values(some).sum(dim=0) for some in points)
    torch.testing.assert_close(total_D, found.weight_VD[0] - found.residual_VD[0])


def test_a_fit_that_was_interrupted_ends_in_the_same_bits() -> None:
    """Where it may be taken up again is told, and tiles and steps are the same from there on."""
    fit = LastLayerFit(_points(False), _before(), None, 0.001)
    kept = []
    through = fit.run(fit.begin(), 10_000, 1e-6, kept.append)
    assert len(kept) > 2
    again = fit.run(kept[0], 10_000, 1e-6)
    assert again.steps == through.steps
    assert torch.equal(again.place_VD, through.place_VD)


def test_a_relative_penalty_knows_neither_size_of_features_nor_of_the_vocabulary() -> None:
    """A hundred times longer features have a penalty ten thousand times larger."""
    points = _points(False)
    longer = [Points(100 * some.features_ND, some.labels_N) for some in points]
    ours, theirs = (LastLayerFit(some, _before(), None, 0.1).l2 for some in (points, longer))
    assert theirs == pytest.approx(1e4 * ours)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, tiny_opt, tiny_mlp])
def test_the_last_layer_is_found_and_what_it_sees_makes_the_logits(make) -> None:
    """Tied or not, with a bias and without."""
    model = make()
    layer = LastLayer.of(model)
    batch = unpadded(torch.arange(12).reshape(2, 6) % VOCABULARY)
    targets = NextTokens().targets(batch)
    features_ND = layer.features(model, batch, targets)
    output = model(batch.tokens_BT)
    logits_BTV = output if isinstance(output, Tensor) else output.logits
    expected_NV = logits_BTV[:, :-1].flatten(0, 1)
    torch.testing.assert_close(features_ND @ layer.weight_VD.T, expected_NV)
    assert layer.is_tied == (make in (tiny_gpt2, tiny_opt))


def test_what_follows_the_last_layer_is_refused_by_name() -> None:
    class Capped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(tiny_mlp())

        def forward(self, tokens_BT: Tensor) -> Tensor:
            return 30 * torch.tanh(self.inner(tokens_BT) / 30)

    with pytest.raises(ModelError, match=r"Capped makes its logits .*'inner\.head' is the last"):
        LastLayer.of(Capped())
    with pytest.raises(ModelError, match="it has no linear layer"):
        LastLayer.of(nn.Embedding(VOCABULARY, VOCABULARY))
