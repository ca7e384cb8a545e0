"""How much of a model is tracked, at any size: what the tiny one tracks, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from families import Family
from measured import Subject
from torch import nn
from untouched import stored

from rayinfluence.model.reach import patterns_of


@dataclass(frozen=True)
class Counted:
    """Parameters of a model.

    Attributes:
        total: all of them; tied ones count once.
        share: the tracked ones, of those that text reaches.
        rest: shares of what is not tracked, by name with stars for numbers, the most first.
    """

    total: int
    share: float
    rest: dict[str, float]


def counted(subject: Subject, model: nn.Module, tracked: Sequence[str]) -> Counted:
    """Count a model whose layers are called as those of a family's tiny one.

    Args:
        subject: has the tiny one.
        model: as transformers makes it, on the meta device too.
        tracked: layers of the tiny one.
    """
    there = {name for name, _ in subject.plain.named_parameters(remove_duplicate=False)}
    wanted = set(patterns_of(one for name in tracked for one in stored(name, there)))
    outside = set(patterns_of(filter(subject.tracked.reach.is_outside, there)))
    sizes: dict[str, int] = {}
    for name, weight in model.named_parameters():
        (pattern,) = patterns_of([name])
        sizes[pattern] = sizes.get(pattern, 0) + weight.numel()
    reached = sum(size for pattern, size in sizes.items() if pattern not in outside)
    shares = {name: size / reached for name, size in sizes.items() if name not in outside}
    rest = {name: share for name, share in shares.items() if name not in wanted}
    return Counted(
        sum(sizes.values()),
        sum(share for name, share in shares.items() if name in wanted),
        dict(sorted(rest.items(), key=lambda pair: -pair[1])),
    )


def published(family: Family) -> nn.Module:
    """The published model without its weights."""
    with torch.device("meta"):
        return family.loader.from_config(family.config(published=True))
