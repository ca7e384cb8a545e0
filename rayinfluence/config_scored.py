"""What a run scores by: its methods, each at one of the dampings that it is to have.

Whoever knows what methods do looks at the method; results, and what is kept of them, go by the
name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import Discriminator, Field, Tag

#: Scores are divided by about as much as a damping: with more, what float32 holds of them is
#: nothing.
_MOST_DAMPING = 1e15
Damping = Annotated[float, Field(gt=0, lt=_MOST_DAMPING)]
#: One, or several; tags that are no identifiers are no part of a key's place.
DampingScale = Annotated[
    Annotated[Damping, Tag("a number")]
    | Annotated[list[Damping], Field(min_length=1), Tag("a list")],
    Discriminator(lambda value: "a list" if isinstance(value, list) else "a number"),
]


@dataclass(frozen=True)
class ScoredMethod:
    """A method as a run scores by it; one that has no damping is one whatever that is.

    Attributes:
        method: its name, as `methods/registry.py` has it.
        name: what its results are called: the same, or of a list of dampings ``ekfac@0.01``.
        damping_scale: that it has; None where it has no damping.
    """

    method: str
    name: str
    damping_scale: float | None


def scored_methods(
    methods: Sequence[str], damped: Collection[str], damping_scale: float | Sequence[float]
) -> list[ScoredMethod]:
    """Methods at each of some dampings, in the order of the methods.

    Args:
        methods: by name.
        damped: those that have a damping.
        damping_scale: one, or those of a list, which are in the names then.
    """
    if isinstance(damping_scale, int | float):
        named = [("", float(damping_scale))]
    else:
        named = [(f"@{plain(scale)}", scale) for scale in damping_scale]
    return [
        ScoredMethod(method, f"{method}{suffix}", scale)
        for method in methods
        for suffix, scale in (named if method in damped else [("", None)])
    ]


def plain(number: float) -> str:
    """A number in all of its digits and without an exponent, as it may stand in names of tables."""
    return f"{Decimal(repr(number)).normalize():f}"
