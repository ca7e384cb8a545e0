"""Several sides, or several queries of one: each beside the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayinfluence.report.compare.beside import Beside, beside
from rayinfluence.report.compare.groups_beside import GroupBeside, groups_beside
from rayinfluence.report.compare.matching import Match, matched
from rayinfluence.report.compare.sides import Difference, Side, differences

#: First hits of each direction that are shown side by side.
SHOWN = 10


@dataclass(frozen=True)
class Pair:
    """The first side and another, or a side and itself.

    Attributes:
        sides: the two.
        queries: that both asked, with what groups of sequences have on each.
        others: sentences that name what only one asked.
        notes: what to know before the numbers are read.
    """

    sides: tuple[Side, Side]
    queries: tuple[tuple[Beside, tuple[GroupBeside, ...]], ...]
    others: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def of_groups(self) -> bool:
        """Whether a side left groups out, and has no hits that could be compared."""
        return any(side.results.meaning.of_groups for side in self.sides)

    def to_json(self) -> dict[str, Any]:
        """It as plain values."""
        return {
            "sides": [side.letter for side in self.sides],
            "not_compared": list(self.others),
            "notes": list(self.notes),
            "queries": [
                {**one.to_json(), "groups": [group.to_json() for group in groups]}
                for one, groups in self.queries
            ],
        }


@dataclass(frozen=True)
class Comparison:
    """Sides, in what they differ, and each of them beside the first."""

    sides: tuple[Side, ...]
    differences: tuple[Difference, ...]
    pairs: tuple[Pair, ...]

    @classmethod
    def of_sides(
        cls, sides: Sequence[Side], n: int = SHOWN, only: Sequence[str] = ()
    ) -> Comparison:
        """Compare each side with the first, for what both were asked.

        Args:
            sides: two or more.
            n: how many first hits of each direction are shown.
            only: ids of the first side's queries that are compared; all where none is given.
        """
        pairs = tuple(_pair((sides[0], other), n, only) for other in sides[1:])
        return cls(tuple(sides), tuple(differences(sides)), pairs)

    @classmethod
    def of_queries(cls, side: Side, queries: Sequence[str], n: int = SHOWN) -> Comparison:
        """Compare queries of one side with the first of them: completions of a prompt, say.

        Args:
            side: the results.
            queries: ids of two or more.
            n: how many first hits of each direction are shown.
        """
        both = (side, side)
        found = [beside(both, (queries[0], other), "", n) for other in queries[1:]]
        of_groups = [groups_beside(both, (one.ours, one.theirs)) for one in found]
        pair = Pair(both, tuple(zip(found, of_groups, strict=True)), (), ())
        return cls((side,), (), (pair,))

    @property
    def of_one(self) -> bool:
        """Whether it is of queries of one side."""
        return len(self.sides) == 1

    def to_json(self) -> dict[str, Any]:
        """It as plain values."""
        return {
            "sides": [side.to_json() for side in self.sides],
            "differences": [{"key": d.key, "values": list(d.values)} for d in self.differences],
            "pairs": [pair.to_json() for pair in self.pairs],
        }


def _pair(sides: tuple[Side, Side], n: int, only: Sequence[str]) -> Pair:
    ours, theirs = sides
    same = ours.tokenizer == theirs.tokenizer
    there = ours.results.queries
    wanted = {name: there[name] for name in only} if only else there
    found = matched(wanted, theirs.results.queries, (ours.letter, theirs.letter), same)
    # What was not asked for is no loss.
    others = () if only and len(found.matches) == len(wanted) else found.others

    def of(match: Match) -> tuple[Beside, tuple[GroupBeside, ...]]:
        ids = match.ours, match.theirs
        return beside(sides, ids, match.note, n, not same), groups_beside(sides, ids)

    return Pair(sides, tuple(map(of, found.matches)), others, tuple(_notes(sides, same)))


def _notes(sides: tuple[Side, Side], same_tokens: bool) -> list[str]:
    ours, theirs = (side.results for side in sides)
    notes = []
    if not same_tokens:
        notes.append(
            "The tokenizers differ: sequences are the same where their texts are, and those that "
            "were cut elsewhere are not; tokens are not compared between the sides."
        )
    contexts = [(one.manifest.get("preflight") or {}).get("context") for one in (ours, theirs)]
    if contexts[0] != contexts[1]:
        notes.append(
            f"Sequences are of at most {contexts[0]} tokens in {sides[0].letter} and "
            f"{contexts[1]} in {sides[1].letter}: documents that are longer were cut elsewhere, "
            "and their parts do not match."
        )
    of_groups = [one.meaning.of_groups for one in (ours, theirs)]
    if any(of_groups):
        notes += [
            f"{side.letter} left groups of sequences out, and no single one: groups are compared, "
            "and no hits."
            for side, is_so in zip(sides, of_groups, strict=True)
            if is_so
        ]
    elif ours.method != theirs.method:
        notes.append("Scores of different methods are not on one scale: compare ranks.")
    return notes
