"""A model that is causal at some lengths alone is not causal."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_preflight import check, seeded
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.answers import in_per_cent


class Peeking(nn.Module):
    """Tokens see the next one, or the mean of all, in sequences of some lengths."""

    def __init__(self, at: Callable[[int], bool], how: str) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(48, 8), nn.Linear(8, 48)
        self.at, self.how = at, how

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.embed(tokens_BT)
        if self.at(tokens_BT.shape[1]):
            seen = hidden.mean(1, keepdim=True) if self.how == "all" else self.next(hidden)
            hidden = hidden + 0.2 * seen
        return self.head(torch.tanh(hidden))

    def next(self, hidden: Tensor) -> Tensor:
        return nn.functional.pad(hidden, (0, 0, -1, 1))


LENGTHS: dict[str, Callable[[int], bool]] = {
    "odd": lambda n: n % 2 == 1,
    "odd and more than 14": lambda n: n % 2 == 1 and n > 14,
    "more than 14": lambda n: n > 14,
    "more than 14 and not many more": lambda n: 14 < n < 20,
    "less than 7": lambda n: n < 7,
    "by five": lambda n: n % 5 == 0,
    "by seven": lambda n: n % 7 == 0,
    "powers of two": lambda n: n & (n - 1) == 0,
    "primes": lambda n: n > 1 and all(n % d for d in range(2, n)),
    "one": lambda n: n == 23,
}


@pytest.mark.parametrize("at", LENGTHS)
@pytest.mark.parametrize("how", ["all", "next"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_look_ahead_at_some_lengths_alone_is_seen(at: str, how: str, alone: bool) -> None:
    with pytest.raises(ModelError, match=r"not causal: .* in a sequence of \d+ tokens"):
        check(seeded(lambda: Peeking(LENGTHS[at], how)), context=40, alone=alone)


@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("least", [0, 14])
def test_a_large_model_is_tried_at_an_odd_and_an_even_length_of_each_kind(
    parity: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayinfluence.model.positions._SECONDS", 0)
    model = seeded(lambda: Peeking(lambda n: n % 2 == parity and n > least, "all"))
    with pytest.raises(ModelError, match="is not causal"):
        check(model, context=100)
    check(seeded(lambda: Peeking(lambda n: False, "all")), context=100)


def test_a_share_of_next_to_nothing_is_no_number_of_thirty_digits() -> None:
    class Last(Peeking):
        """Nothing changes where a token changes, and everything before it does."""

        def forward(self, tokens_BT: Tensor) -> Tensor:
            logits = super().forward(tokens_BT)
            return (
                logits.roll(-1, dims=1)
                * (torch.arange(logits.shape[1]) + 1 < logits.shape[1])[:, None]
            )

    model = seeded(lambda: Last(lambda n: False, "all"))
    with pytest.raises(ModelError, match=r"\(by more than 1,000% of the change at its own place"):
        check(model)
    assert in_per_cent(0.12345) == "12.3%"
    assert in_per_cent(0.12345, 2) == "12.35%"
    assert in_per_cent(1e30) == in_per_cent(float("inf")) == "more than 1,000%"
