"""What the hooks see is enough for every gradient, and costs the model nothing."""

from __future__ import annotations

from collections.abc import Callable

import naive
import pytest
import torch
from cases import Case, token_sequences
from compare import assert_same
from device import DEVICE
from harness import encoded, make_replica, table
from torch import Tensor, nn

from rayinfluence.curvature.blocks import Basis
from rayinfluence.curvature.sums import rotated_gradients
from rayinfluence.dataflow.compute.replica import own_labels
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.errors import ModelError
from rayinfluence.model.batches import make_batch, unpadded
from rayinfluence.model.capture import backward
from rayinfluence.model.head import forward_logits
from rayinfluence.model.layers import layer_of
from rayinfluence.model.load import freeze
from rayinfluence.model.modules import shape_of, track
from rayinfluence.model.rows import Rows

Captured = dict[str, tuple[Tensor, Tensor]]


def capture(
    model: nn.Module, objective: Callable[[], Tensor], shape: tuple[int, int] = (2, 5)
) -> Captured:
    """Every layer's (inputs, output gradients)."""
    captured: Captured = {}

    def consume(name: str, rows: Rows) -> None:
        assert name not in captured, f"{name} was handed over twice"
        captured[name] = (rows.inputs_BRI, rows.grads_BRO)

    backward(track(model, ["*"]), shape, objective, consume)
    return captured


def recovered(inputs_TI: Tensor, grads_TO: Tensor, bias: bool) -> Tensor:
    """D = sum_t g_t a_t^T [O, J]."""
    gradient = grads_TO.T @ inputs_TI
    return torch.cat([gradient, grads_TO.sum(dim=0)[:, None]], dim=1) if bias else gradient


class Chain(nn.Module):
    """Two linear layers with something in between."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.between = between
        generator = torch.Generator().manual_seed(0)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        freeze(self)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.between(self, self.first(inputs))


INPUTS = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# --- gradients ---


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_sequence_gradients_equal_autograd(case: Case, batch_tokens: int) -> None:
    replica, sequences = make_replica(case, batch_tokens), token_sequences()
    found: dict[tuple[int, str], Tensor] = {}

    def step(batch, name, rows) -> None:
        for index, sequence_id in enumerate(batch.sequence_ids):
            bias = replica.shapes[name].bias
            inputs, grads = rows.inputs_BRI[index], rows.grads_BRO[index]
            found[int(sequence_id), name] = recovered(inputs, grads, bias)

    for batch in replica.batches(table(sequences), {}):
        replica.run(batch, own_labels, step, {})
    expected = naive.sequence_gradients(replica.model, list(replica.modules), sequences)
    for index, by_module in enumerate(expected):
        scale = max(float(gradient.abs().max()) for gradient in by_module.values())
        for name, gradient in by_module.items():
            what = f"sequence {index}, {name}"
            if (index, name) not in found:  # an expert that no token of its batch chose
                assert replica.shapes[name].routed, what
                found[index, name] = torch.zeros_like(gradient)
            assert_same(found[index, name], gradient, what, 1e-12, scale)


def test_query_gradients_equal_autograd(case: Case) -> None:
    replica, tokens = make_replica(case), token_sequences()[0]
    twin = naive.trainable(replica.model)
    for first in (1, 4, len(tokens) - 1):
        found = query_gradient(replica, encoded(tokens, first))
        value = naive.log_probability(twin, tokens, first=first)
        assert len(found.log_probabilities) == len(tokens) - first
        assert found.log_probability == pytest.approx(float(value.detach()), rel=1e-12)
        for name, gradient in naive.gradients(twin, list(replica.modules), value).items():
            D = recovered(*found.tokens[name], replica.shapes[name].bias)
            assert_same(D, gradient, f"from token {first}, {name}")


def test_query_ranks_count_likelier_tokens(case: Case) -> None:
    replica, tokens = make_replica(case), token_sequences()[0]
    logits = naive.logits(replica.model, tokens)
    expected = [
        1 + sum(float(other) > float(logits[t - 1, tokens[t]]) for other in logits[t - 1])
        for t in range(4, len(tokens))
    ]
    assert query_gradient(replica, encoded(tokens, 4)).ranks == expected


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("d_in", [3, 8])
@pytest.mark.parametrize("d_out", [4, 9])
@pytest.mark.parametrize("n_tokens", [1, 3, 4, 6, 20])
def test_rotation_on_either_side(n_tokens: int, d_out: int, d_in: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)

    inputs, grads = random(2, n_tokens, d_in), random(2, n_tokens, d_out)
    Q_A, Q_S = random(d_in + bias, d_in + bias), random(d_out, d_out)
    found = torch.cat(list(rotated_gradients(inputs, grads, Basis((Q_A,)), Basis((Q_S,)))))
    for index, rotated in enumerate(found):
        D = recovered(inputs[index], grads[index], bias)
        assert_same(rotated, Q_S.T @ D @ Q_A)


def test_in_place_activations_after_a_module_are_allowed() -> None:
    def between(model: nn.Module, hidden: Tensor) -> Tensor:
        return model.second(torch.relu_(hidden))

    model = Chain(between)
    twin = naive.trainable(model)
    value = (twin(INPUTS) ** 2).sum()
    expected = naive.gradients(twin, ["first", "second"], value)
    captured = capture(model, lambda: (model(INPUTS) ** 2).sum())
    for name, gradient in expected.items():
        inputs, grads = captured[name]
        assert_same(recovered(inputs.flatten(0, 1), grads.flatten(0, 1), True), gradient, name)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "change", [torch.relu_, lambda x: x.mul_(2), lambda x: x.add_(1), lambda x: x.clamp_(-0.5, 0.5)]
)
def test_an_output_changed_in_place_behind_any_layer_is_allowed(
    change: Callable[[Tensor], Tensor], bias: bool
) -> None:
    def between(model: nn.Module, hidden: Tensor) -> Tensor:
        return change(model.second(torch.tanh(hidden)))

    model = Chain(between)
    if not bias:
        model.second.bias = None
    captured = capture(model, lambda: (model(INPUTS) ** 2).sum())
    twin = naive.trainable(model)
    expected = naive.gradients(twin, ["second"], (twin(INPUTS) ** 2).sum())["second"]
    inputs, grads = captured["second"]
    assert_same(recovered(inputs.flatten(0, 1), grads.flatten(0, 1), bias), expected)


def test_a_call_that_the_objective_ignores_contributes_nothing() -> None:
    def between(model: nn.Module, hidden: Tensor) -> Tensor:
        model.second(hidden * 2)
        return model.second(hidden)

    model = Chain(between)
    captured = capture(model, lambda: (model(INPUTS) ** 2).sum())
    twin = naive.trainable(model)
    expected = naive.gradients(twin, ["second"], (twin(INPUTS) ** 2).sum())["second"]
    inputs, grads = captured["second"]
    assert inputs.shape == (2, 5, 4)
    assert_same(recovered(inputs.flatten(0, 1), grads.flatten(0, 1), True), expected)


# --- the model is left as it was ---


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def test_forward_is_bitwise_unchanged_and_hooks_are_gone(case: Case) -> None:
    model = case.model()
    batch = make_batch(token_sequences(), range(7), torch.device("cpu"))
    before = forward_logits(model, batch)
    seen: list[Tensor] = []
    tracked = track(model, ["*"]).values()
    # One for each, and another where what it makes of its product cannot be replaced.
    n_hooks = len(tracked) + sum(layer_of(module).shares for module in tracked)

    def objective() -> Tensor:
        assert hooks_of(model) == n_hooks
        seen.append(forward_logits(model, batch))
        return seen[0].square().sum()

    capture(model, objective, batch.shape)
    after = forward_logits(model, batch)
    assert torch.equal(seen[0].detach(), before)
    assert torch.equal(after, before)
    assert not after.requires_grad
    assert hooks_of(model) == 0
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_hooks_are_gone_after_an_exception(case: Case) -> None:
    model = case.model()
    tokens = torch.arange(6)[None]

    def objective() -> Tensor:
        forward_logits(model, unpadded(tokens))
        raise RuntimeError("the objective failed")

    with pytest.raises(RuntimeError, match="the objective failed"):
        capture(model, objective, (1, 6))
    assert hooks_of(model) == 0

    def consume(name: str, rows: Rows) -> None:
        raise ValueError("the consumer failed")

    with pytest.raises(ValueError, match="the consumer failed"):
        backward(
            track(model, ["*"]),
            (1, 6),
            lambda: forward_logits(model, unpadded(tokens)).sum(),
            consume,
        )
    assert hooks_of(model) == 0
    assert not forward_logits(model, unpadded(tokens)).requires_grad


def test_an_input_changed_in_place_is_refused() -> None:
    def between(model: nn.Module, hidden: Tensor) -> Tensor:
        output = model.second(hidden)
        hidden.mul_(2)
        return output

    model = Chain(between)
    with pytest.raises(ModelError, match="input of module second was changed in place"):
        capture(model, lambda: model(INPUTS).sum())
    assert hooks_of(model) == 0


def test_an_input_without_a_token_axis_is_refused() -> None:
    model = Chain(lambda model, hidden: model.second(hidden))
    with pytest.raises(
        ModelError, match=r"second is called with inputs of shape \[5, 4\] for 2 seq"
    ):
        capture(model, lambda: model(INPUTS[0]).sum())
    assert hooks_of(model) == 0


@pytest.mark.parametrize(
    "objective",
    [
        lambda model: torch.ones((), dtype=torch.float64),
        lambda model: model(INPUTS).detach().sum(),
        lambda model: torch.zeros((), requires_grad=True) + 1,
    ],
    ids=["no forward pass", "detached", "another graph"],
)
def test_an_objective_that_reaches_no_module_is_refused(
    objective: Callable[[nn.Module], Tensor],
) -> None:
    model = Chain(lambda model, hidden: model.second(hidden))
    with pytest.raises(ModelError, match="no tracked module takes part"):
        capture(model, lambda: objective(model))


def test_shapes_are_those_of_the_algebra(case: Case) -> None:
    model = case.model()
    for name, module in track(model, case.patterns).items():
        shape = shape_of(name, module, model)
        matrix = naive.joined(module, module.weight, naive.bias(module))
        assert matrix.shape == (shape.d_out, shape.columns)
        assert matrix.numel() == shape.n_parameters
