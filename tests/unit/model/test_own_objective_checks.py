"""What an objective of the user's own may not do is found out on made-up sequences."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rayinfluence.errors import ConfigError
from rayinfluence.model.load import freeze
from rayinfluence.model.own_objective import OwnObjective
from rayinfluence.model.own_objective_checks import refuse_unfit
from rayinfluence.model.targets import NextTokens
from rayinfluence.named_function import NamedFunction
from rayinfluence.objective_kinds import CAUSAL
from rayinfluence.testing import tiny_gpt2

NAMED = NamedFunction("objective.kind", "mine:f", "")


def sums(logits: Tensor, labels: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    return -cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)


def means(logits, labels, tokens, lengths):
    return sums(logits, labels, tokens, lengths) / (labels != -100).sum(1)


def in_float32(logits, labels, tokens, lengths):
    return sums(logits.float(), labels, tokens, lengths)


def by_loops(logits, labels, tokens, lengths):
    own = [one[:n] for one, n in zip(logits, lengths, strict=True)]
    return torch.stack([one.log_softmax(-1)[:, 3].sum() for one in own])


MODEL = freeze(tiny_gpt2())


def tried(function, masked: bool = False, context: int = 16) -> None:
    own = OwnObjective(NAMED, CAUSAL, function)
    refuse_unfit(own, MODEL, NextTokens(masked=masked), range(40), context, masked)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("context", [2, 16])
@pytest.mark.parametrize("function", [sums, means, in_float32, by_loops])
def test_a_sum_over_sequences_passes(function, masked: bool, context: int) -> None:
    tried(function, masked, context)


def over_the_batch(logits, labels, tokens, lengths):
    return sums(logits, labels, tokens, lengths) / len(lengths)


def above_the_mean(logits, labels, tokens, lengths):
    values = sums(logits, labels, tokens, lengths)
    return values * (values - values.mean()).detach()


def per_longest(logits, labels, tokens, lengths):
    return sums(logits, labels, tokens, lengths) / labels.shape[1]


def with_padding(logits, labels, tokens, lengths):
    return -logits.square().sum((1, 2))


def by_gradient_alone(logits, labels, tokens, lengths):
    values = sums(logits, labels, tokens, lengths)
    return values + values.mean() - values.mean().detach()


def through_padding(logits, labels, tokens, lengths):
    values = logits.sum((1, 2))
    return sums(logits, labels, tokens, lengths) + values - values.detach()


def one_number(logits, labels, tokens, lengths):
    return sums(logits, labels, tokens, lengths).sum()


def of_tokens(logits, labels, tokens, lengths):
    return -cross_entropy(logits.transpose(1, 2), labels, reduction="none")


def a_float(logits, labels, tokens, lengths):
    return float(logits.sum())


def whole_numbers(logits, labels, tokens, lengths):
    return (logits.argmax(-1) == labels).sum(1)


def shares(logits, labels, tokens, lengths):
    return (logits.argmax(-1) == labels).double().mean(1) * 0 + 1.0


def at_random(logits, labels, tokens, lengths):
    return sums(logits, labels, tokens, lengths) * torch.rand(len(lengths))


def by_python_s_generator(logits, labels, tokens, lengths):
    return sums(logits, labels, tokens, lengths) * random.random()


def nan(logits, labels, tokens, lengths):
    return sums(logits, labels, tokens, lengths).log()


def nan_in_the_gradient(logits, labels, tokens, lengths):
    values = sums(logits, labels, tokens, lengths)
    return values + (values - values).square().sqrt()


def zero(logits, labels, tokens, lengths):
    return 0.0 * sums(logits, labels, tokens, lengths)


def failing(logits, labels, tokens, lengths):
    raise IndexError("index 5 is out of bounds")


def leaving(logits, labels, tokens, lengths):
    raise SystemExit(3)


def without_return(logits, labels, tokens, lengths):
    sums(logits, labels, tokens, lengths)


def without_gradient(logits, labels, tokens, lengths):
    with torch.no_grad():
        return sums(logits, labels, tokens, lengths)


def by_place_in_the_batch(logits, labels, tokens, lengths):
    return sums(logits, labels, tokens, lengths) * torch.arange(1, len(lengths) + 1)


def of_other_arguments(logits, labels):
    return logits.sum((1, 2))


def changed_in_place(logits, labels, tokens, lengths):
    exponentials = sums(logits, labels, tokens, lengths).exp()
    values = exponentials * exponentials
    exponentials.mul_(0)
    return values


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (over_the_batch, "in a batch of 3, and .* alone. Influence is of a sum over sequences"),
        (above_the_mean, "in a batch of 3, and .* alone. Influence is of a sum over sequences"),
        (per_longest, "for a sequence with padding, and .* without"),
        (with_padding, "for a sequence with padding, and .* without"),
        (by_gradient_alone, "whose gradient is also in the logits of others"),
        (through_padding, "whose gradient is also in the logits of padding"),
        (one_number, "gives one number for 3 sequences"),
        (of_tokens, r"gives a tensor \[3, 12\] for 3 sequences"),
        (a_float, "gives a float for 3 sequences"),
        (whole_numbers, r"gives a tensor \[3\] of int64 for 3 sequences"),
        (shares, "has no gradient in the logits, as after"),
        (at_random, "and then .* of the same logits"),
        (by_python_s_generator, "and then .* of the same logits"),
        (nan, "a finite number of each is needed"),
        (nan_in_the_gradient, "a gradient that is NaN or infinite"),
        (zero, "a gradient of zero in all logits"),
        (failing, "fails on a batch of 3 sequences: IndexError: index 5 is out of bounds"),
        (leaving, "fails on a batch of 3 sequences: SystemExit: 3"),
        (without_return, "gives nothing for 3 sequences"),
        (without_gradient, "has no gradient in the logits"),
        (by_place_in_the_batch, "in a batch of 3, and .* alone"),
        (of_other_arguments, "fails on a batch of 3 sequences: TypeError"),
        (changed_in_place, "cannot be differentiated"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_none_is_refused_in_a_sentence(function, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        tried(function)
    assert str(caught.value).startswith("objective.kind: mine:f ")


def test_the_generators_of_the_process_go_on_where_they_were() -> None:
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    for function in (at_random, by_python_s_generator):
        with pytest.raises(ConfigError):
            tried(function)
    assert (torch.rand(1), random.random()) == expected


def test_labels_are_what_the_logits_at_their_place_are_to_predict() -> None:
    seen = []

    def note(logits, labels, tokens, lengths):
        seen.append((labels, tokens, lengths))
        return sums(logits, labels, tokens, lengths)

    tried(note, masked=True)
    labels, tokens, lengths = seen[0]
    for row, length in enumerate(lengths.tolist()):
        counted = np.arange(1, length) >= length // 2
        expected = np.where(counted, tokens[row, 1:length], -100)
        assert labels[row, : length - 1].tolist() == expected.tolist()
        assert set(labels[row, length - 1 :].tolist()) == {-100}
