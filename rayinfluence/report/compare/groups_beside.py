"""Groups of sequences, such as sources, on two sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from rayinfluence.influence.correlations import spearman
from rayinfluence.report.compare.sides import Side
from rayinfluence.report.groups import value_of

#: Groups of a key that are shown: the first of each side, by lift.
_FIRST = 6


@dataclass(frozen=True)
class GroupHere:
    """What a side says of a group; see the table of groups.

    ``total`` is the sum of its scores, over N in nats where they predict changes.
    """

    n_sequences: int
    mean_score: float | None
    in_top: int | None
    top: int | None
    lift: float | None
    total: float | None = None
    effect: float | None = None
    effect_se: float | None = None

    @property
    def whole(self) -> float | None:
        """Of the group as a whole: what leaving it out did, or the sum of its scores."""
        return self.total if self.effect is None else self.effect


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

    Where a side has effects, all groups that it left out, the largest effect first.

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
        if any(side.results.meaning.of_groups for side in sides):
            both = zip(sides, (here, there), strict=True)
            keys = [key for side, of in both if side.results.meaning.of_groups for key in of]
        else:
            keys = [*list(here)[:_FIRST], *list(there)[:_FIRST]]
        for key in dict.fromkeys(keys):
            name = value_of(key[1], key[0])
            ours, theirs = _here(here.get(key), sides[0]), _here(there.get(key), sides[1])
            found.append(GroupBeside(column, name, ours, theirs))
    return tuple(found)


def agreement(groups: Sequence[GroupBeside], column: str) -> float | None:
    """Spearman's correlation over groups of what both sides say of each as a whole.

    None of fewer than three, or where a side says the same of all.
    """
    both = [
        (one.ours.whole, one.theirs.whole)
        for one in groups
        if one.column == column and one.ours is not None and one.theirs is not None
    ]
    values = np.array([pair for pair in both if None not in pair], np.float64).reshape(-1, 2)
    if len(values) < 3:
        return None
    found = float(spearman(values[:, :1], values[:, 1:])[0])
    return found if np.isfinite(found) else None


def _groups(side: Side, query_id: str) -> dict[str, dict[tuple[str, str], Mapping[str, Any]]]:
    """By key and by type and value, in the order of lifts."""
    table = side.results.groups
    found: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
    for row in table.filter(pc.equal(table["query_id"], query_id)).to_pylist():
        found.setdefault(row["column"], {})[row["value_type"], row["value"]] = row
    return found


def _here(row: Mapping[str, Any] | None, side: Side) -> GroupHere | None:
    if row is None:
        return None
    total = None
    if row["positive_sum"] is not None:
        predicts, manifest = side.results.meaning.predicts, side.results.manifest
        n = manifest.get("n_training_sequences") or manifest["n_sequences"]
        scale = n if predicts else 1
        total = (row["positive_sum"] + row["negative_sum"]) / scale
    return GroupHere(
        row["n_sequences"],
        row["mean_score"],
        row["in_top"],
        row["top"],
        row["lift"],
        total,
        row.get("effect"),
        row.get("effect_se"),
    )
