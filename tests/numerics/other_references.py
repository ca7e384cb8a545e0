"""References for other objectives: transformers' own call on one text, loops, and autograd.

Nothing of the engine is used; a gradient of a module is [O, J], the bias in the last column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import naive
import numpy as np
import torch
from other_kinds import CLASSIFIERS, MASK, MASKED, PAIRED, SPECIAL
from torch import Tensor, nn

from rayinfluence.dataflow.compute.replica import Numerics
from rayinfluence.model.masking import Masking

SEED = 3
RATE = 0.3


@dataclass(frozen=True)
class Text:
    """A sequence of training, or a query where ``first`` says what is asked.

    Attributes:
        tokens: of it.
        sequence_id: by which its targets are chosen.
        first: token of a query's completion.
        end: the token after its last; None where the text ends with it.
        label: its class.
        begin: where its target begins.
    """

    tokens: np.ndarray
    sequence_id: int = 0
    first: int | None = None
    end: int | None = None
    label: int | None = None
    begin: int = 0


class Reference(Protocol):
    """How a kind of model is asked by whoever has never heard of us."""

    def logits(self, model: nn.Module, text: Text) -> Tensor:
        """Of each target [N, V]."""

    def labels(self, text: Text) -> list[int]:
        """What is to be predicted there."""


class MaskedReference:
    """Masks are put one by one: places by a draw each, the smallest of them."""

    def places(self, text: Text) -> list[int]:
        """Of masks."""
        if text.first is not None:
            return list(range(text.first, text.end or len(text.tokens)))
        stream = np.random.Philox(key=[SEED, text.sequence_id], counter=2**128)
        generator = np.random.Generator(stream)
        draws = {
            place: generator.random()
            for place, token in enumerate(text.tokens.tolist())
            if token not in SPECIAL.values()
        }
        wanted = max(1, round(RATE * len(draws)))
        return sorted(sorted(draws, key=lambda place: draws[place])[:wanted])

    def logits(self, model: nn.Module, text: Text) -> Tensor:
        """At the masks."""
        places = self.places(text)
        tokens = [MASK if i in places else int(t) for i, t in enumerate(text.tokens)]
        return model(torch.tensor([tokens])).logits[0][places]

    def labels(self, text: Text) -> list[int]:
        """The tokens that were there."""
        return [int(text.tokens[place]) for place in self.places(text)]


class ClassReference:
    """One text at a time, so that nothing is padded."""

    def logits(self, model: nn.Module, text: Text) -> Tensor:
        """Of the classes."""
        return model(torch.tensor([text.tokens.tolist()])).logits

    def labels(self, text: Text) -> list[int]:
        """The text's class."""
        assert text.label is not None
        return [text.label]


class PairReference:
    """A source to the encoder, and transformers' own shift of labels for the decoder."""

    def first(self, text: Text) -> int:
        """Of the target's tokens, where what is asked for begins."""
        return 0 if text.first is None else max(text.first, text.begin) - text.begin

    def logits(self, model: nn.Module, text: Text) -> Tensor:
        """Of the target's tokens."""
        source, target = torch.tensor(text.tokens[None]).tensor_split([text.begin], dim=1)
        return model(input_ids=source, labels=target).logits[0, self.first(text) :]

    def labels(self, text: Text) -> list[int]:
        """The target."""
        return text.tokens[text.begin :].tolist()[self.first(text) :]


@dataclass(frozen=True)
class Subject:
    """A model of a kind, what of it is tracked, and how it is asked.

    Attributes:
        name: of it.
        model: makes one in float64.
        patterns: of layers that are tracked.
        numerics: given the tokens of a batch.
        reference: as above.
    """

    name: str
    model: Callable[[], nn.Module]
    patterns: tuple[str, ...]
    numerics: Callable[[int], Numerics]
    reference: Reference


def _masked(batch_tokens: int) -> Numerics:
    masking = Masking(RATE, MASK, tuple(sorted(SPECIAL.values())))
    return Numerics(
        "float64", "cpu", batch_tokens, 2**17, "eager", SEED, objective="masked", masking=masking
    )


def _classes(batch_tokens: int) -> Numerics:
    return Numerics(
        "float64", "cpu", batch_tokens, 2**17, "eager", SEED, objective="classification"
    )


def _pairs(batch_tokens: int) -> Numerics:
    return Numerics("float64", "cpu", batch_tokens, 2**17, "eager", SEED, objective="seq2seq")


SUBJECTS = (
    [
        Subject(name, model, ("*.layer.*",), _masked, MaskedReference())
        for name, model in MASKED.items()
    ]
    + [
        Subject(f"{name} of classes", model, (pattern,), _classes, ClassReference())
        for (name, model), pattern in zip(
            CLASSIFIERS.items(), ("*.layer.*", "*.h.*", "*.layers.*"), strict=True
        )
    ]
    + [
        Subject(name, model, (pattern,), _pairs, PairReference())
        for (name, model), pattern in zip(PAIRED.items(), ("*.block.*", "*.layers.*"), strict=True)
    ]
)


def value(reference: Reference, model: nn.Module, text: Text, labels: Sequence[int]) -> Tensor:
    """Sum of log p(label) over the targets of a text."""
    log_p = reference.logits(model, text).log_softmax(dim=-1)
    return torch.stack([log_p[n, label] for n, label in enumerate(labels)]).sum()


def gradients(
    reference: Reference, twin: nn.Module, names: Sequence[str], text: Text, labels: Sequence[int]
) -> dict[str, Tensor]:
    """D of a text by module."""
    return naive.gradients(twin, names, value(reference, twin, text, labels))


def sampled(reference: Reference, model: nn.Module, text: Text) -> list[int]:
    """A label of each target by walking along the cumulative distribution."""
    stream = np.random.Generator(np.random.Philox(key=[SEED, text.sequence_id]))
    labels = []
    for row in torch.softmax(reference.logits(model, text).detach(), dim=-1):
        draw, label, cumulative = stream.random(), 0, float(row[0])
        while draw >= cumulative:
            label += 1
            cumulative += float(row[label])
        labels.append(label)
    return labels


def covariances(
    reference: Reference,
    model: nn.Module,
    names: Sequence[str],
    texts: Sequence[Text],
    maximised: Callable[[nn.Module, Text], Tensor] | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and S of each module: a loop over texts and rows, divided by the rows.

    Of the log-probability of sampled labels, unless something else is maximised.
    """
    twin = naive.trainable(model)

    def of_samples(twin: nn.Module, text: Text) -> Tensor:
        return value(reference, twin, text, sampled(reference, model, text))

    calls: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str, inputs: Tensor, output: Tensor) -> None:
        output.retain_grad()
        calls.append((name, inputs.detach(), output))

    for name in names:
        twin.get_submodule(name).register_forward_hook(
            lambda _module, args, output, name=name: note(name, args[0], output)
        )
    sums: dict[str, tuple[Tensor, Tensor, int]] = {}
    for text in texts:
        calls.clear()
        (maximised or of_samples)(twin, text).backward()
        for name, inputs, output in calls:
            grads = torch.zeros_like(output) if output.grad is None else output.grad
            for a, g in zip(inputs.flatten(0, -2), grads.flatten(0, -2), strict=True):
                if naive.bias(twin.get_submodule(name)) is not None:
                    a = torch.cat([a, a.new_ones(1)])
                A, S, n = sums.get(name, (0.0, 0.0, 0))
                sums[name] = A + torch.outer(a, a), S + torch.outer(g, g), n + 1
    return {name: (A / n, S / n) for name, (A, S, n) in sums.items()}


def rows_seen(
    reference: Reference, model: nn.Module, names: Sequence[str], texts: Sequence[Text]
) -> dict[str, int]:
    """How many rows each module gets of all texts."""
    counts = dict.fromkeys(names, 0)

    def note(name: str, inputs: Tensor) -> None:
        counts[name] += inputs.shape[:-1].numel()

    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _module, args, name=name: note(name, args[0])
        )
        for name in names
    ]
    for text in texts:
        reference.logits(model, text)
    for handle in handles:
        handle.remove()
    return counts


def dense_scores(
    queries: Sequence[Mapping[str, Tensor]],
    sequences: Sequence[Mapping[str, Tensor]],
    operators: Mapping[str, Tensor] | None,
) -> Tensor:
    """<G^-1 grad f_q, D_z> [N, Q] over all modules; without operators G is one."""
    solved = [
        {
            name: one if operators is None else naive.solve(operators[name], one)
            for name, one in query.items()
        }
        for query in queries
    ]
    return torch.tensor(
        [[float(sum((P[n] * D[n]).sum() for n in P)) for P in solved] for D in sequences],
        dtype=torch.float64,
    )
