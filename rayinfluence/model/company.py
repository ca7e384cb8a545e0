"""What a sequence is to a model beside others: longer ones, many, and padding.

B sequence in batch, P of a pool, T token, I input width, O output width; D either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.model.answers import answers, distance, objective
from rayinfluence.model.batches import Batch, make_batch
from rayinfluence.model.capture import Consumer, backward
from rayinfluence.model.feeding import sides_of
from rayinfluence.model.foreign import BACKWARD, in_words
from rayinfluence.model.head import LanguageModel
from rayinfluence.model.load import vocabulary_size
from rayinfluence.model.positions import affordable
from rayinfluence.model.rows import Rows

#: A module whose gradients are next to nothing beside the others' is measured by theirs; inputs
#: are of all sizes.
_LEAST = {"inputs": 1e-6, "gradients": 1e-3}
#: Passes over the widest batches that the checks make, roughly.
_PASSES = 24
#: A batch of many has so many tokens, whatever it takes.
_MANY = 144
#: Logits that exist at a time, where all are made.
_NUMBERS = 1 << 25
#: Of the sequences that make the batches with the most sequences.
_SHORT = 3
#: Sequences in a batch that are tried besides the most: what is done by eights is seen.
_ROWS = (6, 8, 32)


def neighbour_effect(
    model: nn.Module,
    sequence: np.ndarray,
    longer: np.ndarray,
    device: torch.device,
    alone: bool = False,
) -> float:
    """||change|| of a sequence's logits by a longer one, over the norm of their deviations.

    That is beside it in the batch (unless each is ``alone``), or came before.
    """
    expected = answers(model, [sequence], device)[0]
    if alone:
        answers(model, [longer], device)
        others = []
    else:
        others = [answers(model, [longer, sequence], device)[1, : len(sequence)]]
    others.append(answers(model, [sequence], device)[0])
    return max(distance(expected, other) for other in others)


@dataclass(frozen=True)
class Gathering:
    """A batch of sequences of a pool: row r is the pool's r mod P."""

    pool: Sequence[np.ndarray]
    n_rows: int

    def batch(self, device: torch.device) -> Batch:
        """The sequences side by side."""
        rows = [self.pool[row % len(self.pool)] for row in range(self.n_rows)]
        return make_batch(rows, range(self.n_rows), device)


def gatherings(
    model: nn.Module,
    sequences: Sequence[np.ndarray],
    longer: np.ndarray,
    batch_tokens: int,
) -> list[Gathering]:
    """Batches that a run may have: of few, of as many short ones as fit, of long ones, and mixed.

    Short ones stand beside longer ones of several lengths, since what is done to long batches alone
    is done to the short ones in them.

    Args:
        model: decides what is affordable.
        sequences: of a dozen tokens, of different lengths.
        longer: a long one.
        batch_tokens: the most tokens of a batch.
    """
    few, middle = len(sequences), max(map(len, sequences))
    most = min(batch_tokens, _NUMBERS // (vocabulary_size(model) or 1))
    most = affordable(model, _PASSES, most)
    tokens = min(batch_tokens, max(most, _MANY))
    short = [one[:_SHORT] for one in sequences]
    found = [Gathering(sequences, few), Gathering(short, tokens // len(short[0]))]
    if most >= _MANY:
        rows = {*_ROWS, tokens // middle} - {few}
        found += [Gathering(sequences, n) for n in sorted(rows) if n * middle <= tokens]
        if len(longer) > 1.5 * middle:
            found.append(Gathering([longer, longer[:-1]], tokens // len(longer)))
    halved = halves(min(len(longer), tokens // 2), middle + 1)
    for length in [one - odd for one in halved for odd in (0, 1)]:
        beside = min(few, tokens // length - 1)
        found.append(Gathering([longer[:length], *sequences[:beside]], beside + 1))
    return [one for one in found if one.n_rows > 1]


def halves(longest: int, shortest: int) -> list[int]:
    """A length, half of it, and so on while it is above the shortest."""
    found = []
    while longest > shortest:
        found.append(longest)
        longest //= 2
    return found


@dataclass(frozen=True)
class Alone:
    """What modules saw of each sequence of a pool that was a batch by itself.

    Attributes:
        inputs: [call, T, I] of each sequence, by module; None where it was not called.
        grads: [call, T, O] likewise.
    """

    inputs: Mapping[str, Sequence[Tensor | None]]
    grads: Mapping[str, Sequence[Tensor | None]]

    @classmethod
    def of(
        cls,
        language_model: LanguageModel,
        modules: Mapping[str, nn.Module],
        pool: Sequence[np.ndarray],
        device: torch.device,
    ) -> Alone:
        """Run each by itself."""
        inputs: dict[str, list[Tensor | None]] = {name: [None] * len(pool) for name in modules}
        grads: dict[str, list[Tensor | None]] = {name: [None] * len(pool) for name in modules}
        for place, one in enumerate(pool):
            batch = make_batch([one], [0], device)

            def keep(name: str, rows: Rows, place: int = place, n: int = len(one)) -> None:
                a, g = rows.of_sequence(0, n)
                inputs[name][place], grads[name][place] = a.clone(), g.clone()

            with in_words(language_model.model, "run backward", BACKWARD):
                backward(
                    modules,
                    batch.shape,
                    partial(objective, language_model, batch),
                    keep,
                    sides_of(language_model.model, batch),
                )
        return cls(inputs, grads)


@dataclass
class Moved:
    """How much of what modules see of sequences is otherwise beside others, squares by module.

    Attributes:
        inputs: of inputs at real tokens: of the difference, and of what they are alone.
        gradients: of output gradients, likewise; at padding they should be zero.
    """

    inputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    gradients: dict[str, tuple[float, float]] = field(default_factory=dict)

    def errors(self, together: Mapping[str, str]) -> dict[str, float]:
        """The larger of the two relative differences, by module.

        Args:
            together: what modules are called that are measured as one, such as experts, which may
                have a token or two each.
        """
        found: dict[str, float] = {}
        for kind, by_module in (("inputs", self.inputs), ("gradients", self.gradients)):
            sides: dict[str, tuple[float, float]] = {}
            for name, (difference, norm) in by_module.items():
                key = together.get(name, name)
                before = sides.get(key, (0.0, 0.0))
                sides[key] = before[0] + difference, before[1] + norm
            least = _LEAST[kind] * max((norm for _, norm in sides.values()), default=0.0) ** 0.5
            for name, (difference, norm) in sides.items():
                error = difference**0.5 / max(norm**0.5, least, 1e-30)
                found[name] = max(found.get(name, 0.0), error) if error == error else error
        return found


def comparing(alone: Alone, gathering: Gathering, batch: Batch, moved: Moved) -> Consumer:
    """A consumer that compares rows of a batch with those of its sequences alone.

    Row by row: covariances leave out padding by its place, and tokens have scores of their own.
    A module that was not called for a sequence alone, as an expert that none of its tokens
    chose, may be called for others; its gradients there have to be zero. In numbers of 16 bits a
    token may choose another expert for a rounding of the router: what an expert sees is compared at
    tokens that it has both times.

    Args:
        alone: of the gathering's pool.
        gathering: the sequences.
        batch: of them.
        moved: is told.
    """
    width = batch.tokens_BT.shape[1]
    lengths = torch.tensor([len(one) for one in gathering.pool], device=batch.tokens_BT.device)
    real_PT = torch.arange(width, device=lengths.device) < lengths[:, None]
    members_B = torch.arange(gathering.n_rows, device=lengths.device) % len(gathering.pool)
    # A short sequence counts as much as the long one that is beside it.
    weights_P = 1 / lengths.double()
    for name, pool in alone.grads.items():
        # Unless it is seen, all of it is missing.
        norms = [
            0.0 if one is None else float(one.float().norm()) ** 2 * float(weight)
            for one, weight in zip(pool, weights_P, strict=True)
        ]
        moved.gradients[name] = (sum(norms[int(member)] for member in members_B),) * 2

    def see(name: str, rows: Rows) -> None:
        called = [one is not None for one in alone.inputs[name]]
        called_P = torch.tensor(called, device=members_B.device)
        seen_BT = (real_PT & called_P[:, None])[members_B]
        inputs, grads = rows.by_call()
        theirs = _padded(alone.inputs[name], inputs), _padded(alone.grads[name], grads)
        calls = min(inputs.shape[1], theirs[0].shape[1])
        a, a_alone = inputs[:, :calls], theirs[0][:, :calls]
        both_BT = None
        if rows.tokens_BR is not None and inputs.element_size() == 2:
            # No row is one of zeros.
            both_BT = a[:, 0].any(dim=-1) & a_alone[:, 0].any(dim=-1)[members_B]
            seen_BT = seen_BT & both_BT
        moved.inputs[name] = _apart(a, a_alone, members_B, weights_P, seen_BT)
        moved.gradients[name] = _apart(grads, theirs[1], members_B, weights_P, both_BT)

    return see


def _padded(alone: Sequence[Tensor | None], rows_BCTD: Tensor) -> Tensor:
    """Rows [P, C, T, D] of sequences alone, zero where there is none; as many calls at least."""
    _, calls, width, size = rows_BCTD.shape
    most = max([calls, *(len(one) for one in alone if one is not None)])
    padded = rows_BCTD.new_zeros(len(alone), most, width, size)
    for place, one in enumerate(alone):
        if one is not None:
            padded[place, : len(one), : one.shape[1]] = one
    return padded


def _apart(
    rows_BCTD: Tensor,
    alone_PCTD: Tensor,
    members_B: Tensor,
    weights_P: Tensor,
    seen_BT: Tensor | None,
) -> tuple[float, float]:
    """||rows - alone||^2 and ||alone||^2 over the places that are seen; calls may be missing.

    The squares of each sequence are weighted.
    """
    wide = torch.promote_types(rows_BCTD.dtype, torch.float32)
    expected = alone_PCTD.to(wide)[members_B]
    missing = expected.shape[1] - rows_BCTD.shape[1]
    rows = nn.functional.pad(rows_BCTD.to(wide), (0, 0, 0, 0, 0, missing))
    difference = rows - expected
    if seen_BT is not None:
        hidden = ~seen_BT[:, None, :, None]
        difference, expected = difference.masked_fill(hidden, 0), expected.masked_fill(hidden, 0)
    weights_B = weights_P[members_B]
    squares = [side.double().square().sum(dim=(1, 2, 3)) for side in (difference, expected)]
    return float(squares[0] @ weights_B), float(squares[1] @ weights_B)
