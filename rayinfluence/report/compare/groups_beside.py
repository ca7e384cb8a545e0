"""Groups of sequences, such as sources, on two sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from rayinfluence.report.compare.sides import Side
from rayinfluence.report.groups import value_of

#: Groups of a key that are shown: the first of each side, by lift.
_FIRST = 6


@dataclass(frozen=True)
class GroupHere:
    """What a side says of a group; see the table of groups."""

    n_sequences: int
    mean_score: float | None
    in_top: int | None
    top: int | None
    lift: float | None


@dataclass(frozen=True)
class GroupBeside:
    """A group on two sides; None where a side has no such group."""

    column: str
    name: str
    ours: GroupHere | None
    theirs: GroupHere | None

    def to_json(self) -> dict[str, Any]:
        """It as plain values."""
        return asdict(self)


def groups_beside(sides: tuple[Side, Side], queries: tuple[str, str]) -> tuple[GroupBeside, ...]:
    """Of each key that both sides group by, the groups with the largest lifts on either.

    Args:
        sides: the two.
        queries: the id of the query on each.
    """
    left, right = (_groups(side, name) for side, name in zip(sides, queries, strict=True))
    found: list[GroupBeside] = []
    for column in left:
        if column not in right:
            continue
        here, there = left[column], right[column]
        if {*here, *there} == {("missing", "")}:
            continue  # the default key, in corpora that have no such thing
        for key in dict.fromkeys([*list(here)[:_FIRST], *list(there)[:_FIRST]]):
            name = value_of(key[1], key[0])
            found.append(GroupBeside(column, name, _here(here.get(key)), _here(there.get(key))))
    return tuple(found)


def _groups(side: Side, query_id: str) -> dict[str, dict[tuple[str, str], Mapping[str, Any]]]:
    """By key and by type and value, in the order of lifts."""
    table = side.results.groups
    found: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in table.filter(pc.equal(table["query_id"], query_id)).to_pylist():
        found.setdefault(row["column"], {})[row["value_type"], row["value"]] = row
    return found


def _here(row: Mapping[str, Any] | None) -> GroupHere | None:
    if row is None:
        return None
    keys = ("n_sequences", "mean_score", "in_top", "top", "lift")
    return GroupHere(*(row[key] for key in keys))
