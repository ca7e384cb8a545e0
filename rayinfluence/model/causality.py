"""Whether a token sees what comes after it: in what is said of it, and in what layers see of it.

V vocabulary, T token, I input width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from rayinfluence.errors import ModelError
from rayinfluence.model.answers import SAME_SHAPES, answers, in_per_cent
from rayinfluence.model.capture import input_of, places_of
from rayinfluence.model.dtype import dtype_of
from rayinfluence.model.layers import layer_of
from rayinfluence.model.positions import affordable
from rayinfluence.model.rows import at_tokens, by_sequence

#: Tokens of a sequence that are changed.
PLACES = 8
#: The same in sequences of further lengths.
_FEW = 3
#: All lengths up to this one are tried where that costs little, and so many longer ones.
_ALL = 33
_MORE = 9
#: A layer's inputs that hardly change anywhere are measured by their size.
_LEAST = 1e-3


@dataclass
class Ahead:
    """The largest changes before a changed token, over those at its place or after it.

    Attributes:
        logits: of what the model says.
        inputs: of what layers see, by name.
        length: of the sequence for which the logits change most.
    """

    logits: float = 0.0
    inputs: dict[str, float] = field(default_factory=dict)
    length: int = 0

    @property
    def any(self) -> bool:
        """Whether there is any, be it of rounding."""
        return self.logits > 0 or any(self.inputs.values())

    def add(self, other: Ahead) -> None:
        """Keep the larger changes."""
        if other.logits > self.logits:
            self.logits, self.length = other.logits, other.length
        for name, change in other.inputs.items():
            self.inputs[name] = max(self.inputs.get(name, 0.0), change)


def look_ahead(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    longer: np.ndarray,
    most: int,
    ordinary: Sequence[int],
    alone: bool,
) -> Ahead:
    """Change tokens one at a time, in sequences of odd and of even lengths.

    Something may be done to lengths that can be divided by a number, or beyond one, alone; so all
    short ones are tried where that costs little.

    Args:
        model: the model.
        modules: its tracked ones.
        longer: a sequence; others are how it begins.
        most: tokens of the longest that is affordable.
        ordinary: ids that stand in for others.
        alone: whether each sequence is a batch of its own; what is side by side is run sooner.
    """
    found = Ahead()
    for length, n_places in _lengths(model, min(most, len(longer))).items():
        versions = _versions(longer[:length], n_places, ordinary)
        if n_places == PLACES or alone or _may_look(model, modules, versions):
            found.add(_look(model, modules, versions, False))
    return found


def refuse_plain_look_ahead(
    model: nn.Module, sequence: np.ndarray, ordinary: Sequence[int]
) -> None:
    """Refuse a model of which the tokens of one short sequence see its last one.

    Masked language models are told by that in a pass or three, before positions, context or queries
    are spoken of; what looks ahead at some lengths alone is for :func:`look_ahead` to find.

    Args:
        model: the model.
        sequence: made up.
        ordinary: ids that stand in for others.

    Raises:
        ModelError: it is not causal.
    """
    versions = _versions(sequence, 1, ordinary)
    if _may_look(model, {}, versions):
        refuse_not_causal(model, _look(model, {}, versions, False))


def refuse_not_causal(model: nn.Module, found: Ahead) -> None:
    """Refuse a model whose logits change before a changed token by more than rounding.

    Raises:
        ModelError: they do.
    """
    if found.logits > SAME_SHAPES[dtype_of(model)]:
        raise ModelError(
            f"{type(model).__name__} is not causal: changing a token changes what is said before "
            f"it (by {in_per_cent(found.logits, 2)} of the change at its own place, in a sequence "
            f"of {found.length} tokens), so that tokens would see their targets. Name a causal "
            "language model under `model`; or, if it was trained to fill in masks, set "
            "`objective.kind: masked`."
        )


def _versions(
    sequence: np.ndarray, n_places: int, ordinary: Sequence[int]
) -> dict[int, np.ndarray]:
    """A sequence with the token at a place changed, by place; and as it is, at -1."""
    versions = {-1: sequence}
    for place in sorted({len(sequence) * part // n_places - 1 for part in range(1, n_places + 1)}):
        if place > 0:
            versions[place] = sequence.copy()
            versions[place][place] = next(one for one in ordinary if one != sequence[place])
    return versions


def _lengths(model: nn.Module, longest: int) -> dict[int, int]:
    """Lengths that are tried, and how many tokens are changed in each."""
    further = [*range(2, _ALL + 1), *np.geomspace(_ALL, max(longest, _ALL), _MORE).astype(int)]
    further = sorted({int(length) for length in further if length <= longest})
    tokens = affordable(model, _FEW + 1, sum(further))
    if tokens < sum(further):
        further = []
    always = {min(length, longest) for length in (12, 11)} | {longest, longest - 1}
    chosen = dict.fromkeys(further, _FEW)
    chosen |= {length: PLACES if further or not length % 2 else _FEW for length in always}
    return {length: places for length, places in chosen.items() if length >= 2}


def _may_look(
    model: nn.Module, modules: Mapping[str, nn.Module], versions: Mapping[int, np.ndarray]
) -> bool:
    """Whether anything changes before a changed place, seen side by side."""
    try:
        return _look(model, modules, versions, True).any
    except ModelError:
        return True  # that it does not run side by side is for other checks to say


def _look(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    versions: Mapping[int, np.ndarray],
    together: bool,
) -> Ahead:
    """How much a sequence changes before changed places, side by side or each by itself."""
    device = next(model.parameters()).device
    rows = list(versions.values())
    batches = [rows] if together else [[row] for row in rows]
    logits, inputs = [], []
    for batch in batches:
        with _inputs(modules, (len(batch), len(rows[0]))) as seen:
            logits += list(answers(model, batch, device))
        inputs += [
            {
                name: [call[row] for call in calls if call is not None]
                for name, calls in seen.items()
                if not any(call is None for call in calls)
            }
            for row in range(len(batch))
        ]
    found = Ahead(length=len(rows[0]))
    for row, place in enumerate(versions):
        if place < 0:
            continue
        change_T = (logits[row] - logits[0]).abs().amax(dim=-1)
        change = float(change_T[:place].max() / change_T[place].clamp_min(1e-30))
        found.logits = max(found.logits, change)
        for name in inputs[0]:
            # An expert may get nothing of what changes, and rounds by how much it gets in all.
            least = 1.0 if layer_of(modules[name]).routed else _LEAST
            change = _ahead(inputs[0][name], inputs[row].get(name), place, found.length, least)
            found.inputs[name] = max(found.inputs.get(name, 0.0), change)
    return found


def _ahead(
    expected: list[Tensor], other: list[Tensor] | None, place: int, n: int, least: float
) -> float:
    """How much inputs change before a place, call by call of a layer.

    By how much they change at it or later, and by a share of their size at the least.
    """
    if other is None:
        return 0.0
    before, after = _joined(expected, n), _joined(other, n)
    if before is None or after is None or before.shape != after.shape:
        return 0.0  # it is for other checks
    change_T = (after - before).abs().amax(dim=(0, 2))
    by = change_T[place:].max().maximum(least * before.abs().max())
    return float(change_T[:place].max() / by.clamp_min(1e-30))


def _joined(calls: list[Tensor], n_tokens: int) -> Tensor | None:
    """Inputs [call, T, I] as capture hands them over; None where they are not token by token."""
    joined = torch.cat(calls) if calls else torch.zeros(1, 1)
    return None if len(joined) % n_tokens else joined.unflatten(0, (-1, n_tokens)).double()


@contextmanager
def _inputs(
    modules: Mapping[str, nn.Module], shape: tuple[int, int]
) -> Iterator[dict[str, list[Tensor | None]]]:
    """The rows of each call of modules, by name; None where they cannot be told apart."""
    found: dict[str, list[Tensor | None]] = {}

    def note(name: str, given: Tensor | None, places: Tensor | None) -> None:
        if given is not None:
            rows = layer_of(modules[name]).inputs(modules[name], given.detach(), shape[1])
            placed = by_sequence(rows, shape)
            if places is not None:
                placed = at_tokens(rows, places, shape)
            # A copy, since the layers that follow may write into it.
            found.setdefault(name, []).append(None if placed is None else placed.clone())

    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: note(
                name, input_of(args, kwargs), places_of(module, args)
            ),
            with_kwargs=True,
        )
        for name, module in modules.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
