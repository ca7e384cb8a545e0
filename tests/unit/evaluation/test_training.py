"""The loop, with and without weights of sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional

from rayinfluence.evaluation import training
from rayinfluence.evaluation.new_model import ModelSettings, new_model
from rayinfluence.evaluation.training import (
    TrainingSettings,
    batches,
    learning_rate_share,
    pad,
    train,
)

SIZES = ModelSettings(vocabulary=50, context=12, width=16, layers=1, heads=2)
SETTINGS = TrainingSettings(epochs=3, batch=4, learning_rate=4e-3, threads=1)
LENGTHS = np.random.default_rng(1).integers(2, 12, 22)
ROWS = [np.random.default_rng(n).integers(0, 50, n).tolist() for n in LENGTHS.tolist()]
MASKS = [[position % 3 != 1 for position in range(len(row))] for row in ROWS]


def trained(
    weights: Sequence[float] | None = None,
    masks: Sequence[Sequence[bool]] | None = None,
    dtype: torch.dtype = torch.float32,
    settings: TrainingSettings = SETTINGS,
) -> tuple[torch.Tensor, float]:
    """All weights of a model in one row, and its loss."""
    model = new_model(SIZES, 0).to(dtype)
    loss = train(model, ROWS, 7, settings, masks=masks, weights_N=weights)
    return flat(model), loss


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def by_hand(
    mean: Callable[[torch.Tensor, torch.Tensor, list[int]], torch.Tensor], dtype: torch.dtype
) -> tuple[torch.Tensor, list[float]]:
    """The loop written out, with another loss [B, T, V], labels and rows of a batch."""
    model = new_model(SIZES, 0).to(dtype).train()
    rng = np.random.default_rng(7)
    plan = [b for _ in range(SETTINGS.epochs) for b in batches(ROWS, SETTINGS.batch, rng)]
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, SETTINGS.learning_rate, (0.9, 0.95), weight_decay=0.01)
    losses = []
    for step, batch in enumerate(plan):
        for group in optimizer.param_groups:
            share = learning_rate_share(step, len(plan), SETTINGS.warmup)
            group["lr"] = SETTINGS.learning_rate * share
        inputs, labels = pad([ROWS[index] for index in batch])
        loss = mean(model(input_ids=inputs).logits[:, :-1], labels[:, 1:], batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return flat(model), losses


def token_mean(logits: torch.Tensor, labels: torch.Tensor, _batch: list[int]) -> torch.Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def weighted(weights: Sequence[float]) -> Callable[..., torch.Tensor]:
    """The whole batch goes through the model, and a sequence's loss is multiplied afterwards."""

    def mean(logits: torch.Tensor, labels: torch.Tensor, batch: list[int]) -> torch.Tensor:
        losses = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
        )
        of_rows = losses.view(len(batch), -1).sum(1)
        factors = torch.tensor([weights[index] for index in batch], dtype=of_rows.dtype)
        return (of_rows * factors).sum() / (labels != -100).sum()

    return mean


def test_with_weights_of_one_it_is_the_plain_loop_bit_for_bit() -> None:
    expected, losses = by_hand(token_mean, torch.float32)
    for weights in (None, np.ones(len(ROWS))):
        found, loss = trained(weights)
        assert torch.equal(found, expected)
    tokens = [sum(len(ROWS[i]) - 1 for i in b) for b in batches(ROWS, 4, np.random.default_rng(7))]
    assert len(losses) == SETTINGS.n_steps(len(ROWS)) == 3 * len(tokens)
    assert math.isfinite(loss)
    assert torch.equal(trained(None, MASKS)[0], trained(np.ones(len(ROWS)), MASKS)[0])


@pytest.mark.parametrize("dropped", [(0,), (3, 4, 5, 9), tuple(range(0, 22, 2)), tuple(range(19))])
def test_dropping_a_sequence_is_multiplying_its_loss_by_zero(dropped: tuple[int, ...]) -> None:
    """The last of them leaves batches of which nothing is kept, in which AdamW goes on."""
    weights = [0.0 if index in dropped else 1.0 for index in range(len(ROWS))]
    expected, _ = by_hand(weighted(weights), torch.float64)
    found, _ = trained(weights, dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert (found - trained(dtype=torch.float64)[0]).abs().max() > 1e-4


def test_seen_twice_is_twice_the_loss() -> None:
    weights = [2.0 if index in (2, 11) else 0.0 if index == 5 else 1.0 for index in range(22)]
    expected, _ = by_hand(weighted(weights), torch.float64)
    assert torch.allclose(
        trained(weights, dtype=torch.float64)[0], expected, rtol=1e-10, atol=1e-12
    )


def test_what_is_dropped_takes_no_part_in_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = training._sum
    monkeypatch.setattr(
        training,
        "_sum",
        lambda model, inputs, *rest: seen.append(len(inputs)) or whole(model, inputs, *rest),
    )
    weights = [float(index % 2) for index in range(22)]
    trained(weights)
    assert sum(seen) <= 3 * 11 + 4 * seen.count(4)
    assert sum(seen) < 3 * 22


def test_the_loss_that_is_told_is_of_what_is_seen() -> None:
    """Without steps that move anything, it is the mean over tokens of the sequences kept."""
    still = TrainingSettings(epochs=1, batch=4, learning_rate=0.0, threads=1)
    weights = [float(index % 3) for index in range(22)]
    model = new_model(SIZES, 0)
    sums, tokens = 0.0, 0.0
    for row, weight in zip(ROWS, weights, strict=True):
        inputs, labels = pad([row])
        logits = model(input_ids=inputs).logits[:, :-1]
        sums += weight * token_mean(logits, labels[:, 1:], []).item() * (len(row) - 1)
        tokens += weight * (len(row) - 1)
    assert trained(weights, settings=still)[1] == pytest.approx(sums / tokens, rel=1e-5)
    assert math.isnan(trained([0.0] * 22, settings=still)[1])


def test_dropout_is_off() -> None:
    """It would draw other numbers beside other sequences."""
    model = new_model(SIZES, 0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    train(model, ROWS, 7, SETTINGS)
    assert torch.equal(flat(model), trained()[0])


def test_batches_hold_every_row_once_and_padding_is_not_learned() -> None:
    rows = [[5] * (1 + n % 7) for n in range(50)]
    found = list(batches(rows, 8, np.random.default_rng(0)))
    assert sorted(index for batch in found for index in batch) == list(range(50))
    inputs, labels = pad([[3, 4, 5], [6]])
    assert inputs.tolist() == [[3, 4, 5], [6, 0, 0]]
    assert labels.tolist() == [[3, 4, 5], [6, -100, -100]]
    assert pad([[3, 4], [5, 6]], [None, [True, False]])[1].tolist() == [[3, 4], [5, -100]]


def test_the_learning_rate_rises_then_falls() -> None:
    shares = [learning_rate_share(step, 100, 0.05) for step in range(100)]
    assert shares.index(max(shares)) in (4, 5)
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert 0.05 <= shares[-1] < 0.06
