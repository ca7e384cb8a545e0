"""What is done in batches of many sequences, and to padding, is seen before it makes a number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_preflight import TOKENS, check, seeded
from torch import Tensor, nn

from rayinfluence.dataflow.compute.replica import Numerics, Replica, own_labels
from rayinfluence.errors import ModelError
from rayinfluence.model.batches import make_batch
from rayinfluence.model.capture import backward
from rayinfluence.model.head import LanguageModel
from rayinfluence.model.preflight import preflight

#: What stands in a layer's place.
Use = Callable[[nn.Linear, Tensor], Tensor]


class Residual(nn.Module):
    """One layer beside the residual, used as a test says, and a head."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 8)
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 48)
        self.use = use

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        return self.head(hidden + torch.tanh(self.use(self.layer, hidden)))


def residual(use: Use) -> nn.Module:
    return seeded(lambda: Residual(use))


def by_hand(layer: nn.Linear, hidden: Tensor) -> Tensor:
    return nn.functional.linear(hidden, layer.weight, layer.bias)


def within_capacity(layer: nn.Linear, hidden: Tensor) -> Tensor:
    """A mixture's expert that has room for a quarter of the tokens, and for 40 at least."""
    n, length, _ = hidden.shape
    place = torch.arange(n * length).reshape(n, length, 1)
    return torch.where(place < max(40, n * length // 4), layer(hidden), 0.0)


def chosen_by_loudness(layer: nn.Linear, hidden: Tensor) -> Tensor:
    """The loudest half of a large batch's tokens are seen, as where experts choose tokens."""
    n, length, _ = hidden.shape
    loud = hidden.norm(dim=-1, keepdim=True)
    least = loud.flatten().median() if n * length > 100 else 0.0
    return torch.where(loud >= least, layer(hidden), 0.0)


IN_LARGE_BATCHES: dict[str, tuple[Use, str]] = {
    "a weight used by hand for more than 5": (
        lambda layer, x: by_hand(layer, x) if len(x) > 5 else layer(x),
        r"gradient of 1 layers is not .* layer \(layer: nothing of it was seen",
    ),
    "a weight used by hand for more than 100": (
        lambda layer, x: by_hand(layer, x) if len(x) > 100 else layer(x),
        r"gradient of 1 layers is not .* layer \(layer: nothing of it was seen",
    ),
    "a weight used by hand for eights": (
        lambda layer, x: by_hand(layer, x) if len(x) % 8 == 0 else layer(x),
        r"gradient of 1 layers is not .* layer \(layer: nothing of it was seen",
    ),
    "a weight used by hand for more than 100 tokens": (
        lambda layer, x: by_hand(layer, x) if x.shape[0] * x.shape[1] > 100 else layer(x),
        r"gradient of 1 layers is not .* layer \(layer: nothing of it was seen",
    ),
    "a weight used by hand for several long ones": (
        lambda layer, x: by_hand(layer, x) if len(x) > 1 and x.shape[1] > 16 else layer(x),
        r"gradient of 1 layers is not .* layer \(layer: nothing of it was seen",
    ),
    "room for 40 tokens": (within_capacity, r"depends on the others in its batch: .*layer "),
    "the loudest tokens": (chosen_by_loudness, r"depends on the others in its batch: .*layer "),
    "another scale": (
        lambda layer, x: layer(x) * (1.5 if len(x) > 5 else 1.0),
        r"depends on the others in its batch: .*layer .* in a batch of \d+\)",
    ),
    "turned round": (
        lambda layer, x: layer(x.flip(0)).flip(0) if len(x) > 9 else layer(x),
        r"depends on the others in its batch: .*layer ",
    ),
    "eight at a time": (
        lambda layer, x: torch.cat([layer(part) for part in x.split(8)]),
        r"layer is called .*with 8.* sequences of a batch, .*apart by sequence",
    ),
    "two halves": (
        lambda layer, x: (
            torch.cat([layer(part) for part in x.chunk(2)]) if len(x) % 8 == 0 else layer(x)
        ),
        r"layer is called 2 times .* with 4, 4 of the 8 sequences of a batch, .*apart by sequence",
    ),
}


@pytest.mark.parametrize("what", IN_LARGE_BATCHES)
def test_a_layer_that_is_used_otherwise_in_large_batches_is_refused(what: str) -> None:
    use, said = IN_LARGE_BATCHES[what]
    with pytest.raises(ModelError, match=said):
        check(residual(use), context=32)


@pytest.mark.parametrize("what", IN_LARGE_BATCHES)
def test_where_each_sequence_is_alone_there_are_no_large_batches(what: str) -> None:
    use, _ = IN_LARGE_BATCHES[what]
    check(residual(use), context=32, alone=True)


def test_batches_are_as_large_as_those_of_the_run() -> None:
    def seen(batch_tokens: int) -> int:
        sizes = []

        def use(layer: nn.Linear, x: Tensor) -> Tensor:
            sizes.append(x.shape[0] * x.shape[1])
            return layer(x)

        model = residual(use)
        layers = {"layer": model.layer, "head": model.head}
        found = preflight(
            LanguageModel(model, None, None), layers, TOKENS, 16, batch_tokens=batch_tokens
        )
        assert found.sequences == max(5, batch_tokens // 3)
        return max(sizes)

    assert seen(9000) > 8900
    assert seen(300) == 300
    assert seen(64) <= 64


def test_a_large_model_is_tried_with_more_sequences_than_five_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rayinfluence.model.positions._SECONDS", 0)
    for what in ("a weight used by hand for more than 5", "room for 40 tokens", "eight at a time"):
        use, said = IN_LARGE_BATCHES[what]
        with pytest.raises(ModelError, match=said):
            check(residual(use), context=32)
    check(residual(lambda layer, x: layer(x)), context=32)


def test_a_layer_may_have_parameters_beside_its_weight_and_bias() -> None:
    class Gated(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.gate = nn.Parameter(torch.randn(3))

        def forward(self, hidden: Tensor) -> Tensor:
            return super().forward(hidden * torch.sigmoid(self.gate.sum()))

    def gated() -> nn.Module:
        model = Residual(lambda layer, hidden: layer(hidden))
        model.layer = Gated()
        return model

    with pytest.raises(ModelError, match=r"the gradient of 1 layers is not what their inputs"):
        check(seeded(gated))  # the gate is within the layer

    class Named(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.seen = nn.Parameter(torch.randn(3))

    def named() -> nn.Module:
        model = Residual(lambda layer, hidden: layer(hidden) * layer.seen.sum())
        model.layer = Named()
        return model

    check(seeded(named))


def test_a_run_refuses_calls_with_a_part_of_its_batch_in_words() -> None:
    """Of shapes that the checks did not try."""
    model = residual(lambda layer, x: torch.cat([layer(part) for part in x.chunk(2)]))
    numerics = Numerics("float32", "cpu", 64, 64, "eager", 0)
    replica = Replica(model, {"layer": model.layer}, numerics)
    batch = make_batch([np.arange(5)] * 4, range(4), replica.device)
    with pytest.raises(ModelError, match=r"with 2, 2 of the 4 sequences of a batch"):
        replica.run(batch, own_labels, lambda *_: None, {})


def test_inputs_of_one_row_for_all_sequences_are_refused_in_words() -> None:
    def same_for_all(layer: nn.Linear, x: Tensor) -> Tensor:
        return layer(torch.ones_like(x[:1])).expand_as(x)

    with pytest.raises(ModelError, match=r"layer is called with 1 of the \d sequences"):
        check(residual(same_for_all))


def test_inputs_and_outputs_of_different_places_are_refused_in_words() -> None:
    model = residual(lambda layer, x: layer(x))
    tokens = torch.arange(6).reshape(2, 3)
    with pytest.raises(ModelError, match=r"layer gets 3 of the 4 tokens of a sequence"):
        backward({"layer": model.layer}, (2, 4), lambda: model(tokens).sum(), print)


# --- tokens in another order ---


def sorted_by_size(layer: nn.Linear, x: Tensor) -> Tensor:
    order = x.norm(dim=-1).argsort(dim=1)[:, :, None].expand_as(x)
    return torch.zeros_like(x).scatter(1, order, layer(x.gather(1, order)))


def step_by_step(layer: nn.Linear, x: Tensor) -> Tensor:
    """Each token twice before the next: calls are joined along the tokens."""
    steps = [layer(torch.tanh(layer(x[:, i : i + 1]))) for i in range(x.shape[1])]
    return torch.cat(steps, dim=1)


OTHER_ORDER: dict[str, Use] = {
    "backwards": lambda layer, x: layer(x.flip(1)).flip(1),
    "moved on": lambda layer, x: layer(x.roll(1, 1)).roll(-1, 1),
    "moved back": lambda layer, x: layer(x.roll(-1, 1)).roll(1, 1),
    "halves": lambda layer, x: layer(x.roll(x.shape[1] // 2, 1)).roll(-(x.shape[1] // 2), 1),
    "the last first": lambda layer, x: torch.cat(
        [(y := layer(torch.cat([x[:, -1:], x[:, :-1]], 1)))[:, 1:], y[:, :1]], 1
    ),
    "by size": sorted_by_size,
    "the second half first": lambda layer, x: torch.cat(
        [layer(x[:, x.shape[1] // 2 :]), layer(x[:, : x.shape[1] // 2])][::-1], 1
    ),
    "each twice before the next": step_by_step,
}


@pytest.mark.parametrize("what", OTHER_ORDER)
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_takes_tokens_in_another_order_is_refused(
    what: str, alone: bool, dtype: torch.dtype
) -> None:
    """Its whole gradient is right, and what covariances and tokens' scores are about is not."""
    model = seeded(lambda: Residual(OTHER_ORDER[what]), dtype)
    with pytest.raises(ModelError, match=r"get at the place of a token .* after it.*: layer\."):
        check(model, alone=alone)


def test_a_layer_that_takes_tokens_in_order_one_by_one_or_in_halves_passes() -> None:
    check(residual(lambda layer, x: torch.cat([layer(part) for part in x.split(1, 1)], 1)))
    check(residual(lambda layer, x: torch.cat([layer(part) for part in x.chunk(2, 1)], 1)))
    check(residual(lambda layer, x: layer(nn.functional.pad(x, (0, 0, 1, -1)))))  # its predecessor


def test_what_comes_back_through_padding_is_refused() -> None:
    """A layer at the place after its own: behind the last token that is padding."""

    def one_later(layer: nn.Linear, x: Tensor) -> Tensor:
        later = layer(nn.functional.pad(x, (0, 0, 1, -1)))
        return nn.functional.pad(later, (0, 0, -1, 1))

    with pytest.raises(ModelError, match=r"says something else of a sequence when a longer one"):
        check(residual(one_later))
