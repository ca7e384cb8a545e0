"""What a picture is made of: one query by one method, and which of its hits are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayinfluence.analysis.scores import tail_of
from rayinfluence.influence.tails import Tail
from rayinfluence.storage.results import Direction, Results, Survivor

_SIGNS: dict[Direction, int] = {"proponent": 1, "opponent": -1}


@dataclass(frozen=True)
class Seen:
    """A query by a method, with the hits that are shown: the first of each direction."""

    results: Results
    query_id: str
    proponents: Sequence[Survivor]
    opponents: Sequence[Survivor]

    @classmethod
    def of(cls, results: Results, query_id: str, n: int) -> Seen:
        """With the first n of each direction."""
        sides = results.proponents(query_id, n), results.opponents(query_id, n)
        return cls(results, query_id, *sides)

    @property
    def hits(self) -> list[Survivor]:
        """The proponents, then the opponents."""
        return [*self.proponents, *self.opponents]

    def tail(self, direction: Direction) -> Tail:
        """The histogram of all scores of a direction; empty where the results have none."""
        return tail_of(self.results, self.query_id, _SIGNS[direction])


def some(hits: Sequence[Survivor]) -> str:
    """How many hits are shown, and of which direction: "20 proponents", "1 opponent"."""
    direction = hits[0].direction if hits else "proponent"
    return f"{len(hits)} {direction}{'s' * (len(hits) != 1)}"
