"""One question on two sides: which of the first hits both have, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from rayinfluence.influence.rankings import (
    chance,
    nearest,
    overlap,
    rank_biased_overlap,
    rarities,
    share_of,
)
from rayinfluence.report.compare.sides import Side
from rayinfluence.storage.results import Direction, Survivor

#: So many first hits are looked at for what both have; and for how alike their tokens are.
FIRST, ALIKE = (10, 20, 100), 10
SIDES: tuple[Direction, Direction] = ("proponent", "opponent")


@dataclass(frozen=True)
class Overlap:
    """Of the first ``k`` of both, how many both have, and what share of k chance gives."""

    k: int
    both: int
    by_chance: float | None


@dataclass(frozen=True)
class Place:
    """Where a hit is on a side; without a rank it is not among those that were kept there.

    Attributes:
        direction: in which it is.
        rank: there.
        score: the method's.
        delta_nats: the predicted change, if there is one.
        score_se: of a mean over seeds, the standard error.
    """

    direction: Direction
    rank: int
    score: float
    delta_nats: float | None
    score_se: float | None = None


@dataclass(frozen=True)
class Hit:
    """One of the first hits of either side, with its place on each."""

    source: str
    document_id: str
    content_digest: str
    text: str
    ours: Place | None
    theirs: Place | None


@dataclass(frozen=True)
class Hits:
    """The hits of one direction on both sides.

    Attributes:
        direction: of the scores.
        kept: how many different texts each side has kept.
        overlaps: at each k that both have hits for; else at the most that they have.
        rank_biased: rank-biased overlap, from 0 to 1; None where a side has no hits.
        alike: the token overlap of the first hits; None where a side has none, or other tokens.
        first: the first hits of either, by the better of their ranks.
    """

    direction: Direction
    kept: tuple[int, int]
    overlaps: tuple[Overlap, ...]
    rank_biased: float | None
    alike: float | None
    first: tuple[Hit, ...]


@dataclass(frozen=True)
class Beside:
    """A question on two sides.

    Attributes:
        ours, theirs: its id on each.
        note: in what the two differ; empty where they do not.
        query: its row on the first side, and of the other where it asks something else.
        scored: how many sequences each side has scored for it; None where that is not known.
        literal: the share of the question's tokens, by rarity, that the first proponents of each
            side have; None where a question has no tokens of its own.
        hits: proponents, then opponents.
    """

    ours: str
    theirs: str
    note: str
    query: tuple[Mapping[str, Any], Mapping[str, Any]]
    scored: tuple[int | None, int | None]
    literal: tuple[float | None, float | None]
    hits: tuple[Hits, Hits]

    def to_json(self) -> dict[str, Any]:
        """It as plain values."""
        values = asdict(self)
        del values["query"]
        return values


#: By direction, what a side has kept, in the order of ranks; a text that is repeated, once.
Kept = Mapping[Direction, Mapping[str, Survivor]]


def beside(
    sides: tuple[Side, Side], queries: tuple[str, str], note: str, n: int, by_text: bool = False
) -> Beside:
    """Compare a query of one side with one of the other.

    Args:
        sides: the results of each; the same for two queries of one run.
        queries: the id on each.
        note: in what the two differ.
        n: how many first hits of each direction are shown.
        by_text: whether sequences are the same by their texts, and not by their tokens: of sides
            whose tokenizers differ.
    """
    kept: list[Kept] = [
        _kept(side, name, by_text) for side, name in zip(sides, queries, strict=True)
    ]
    rows = tuple(s.results.queries[name] for s, name in zip(sides, queries, strict=True))
    scored = tuple(_scored(s, name) for s, name in zip(sides, queries, strict=True))
    all_of = [{k: s for of in one.values() for k, s in of.items()} for one in kept]
    if by_text:
        weights = [rarities(s.tokens for s in of.values()) for of in all_of]
    else:
        weights = [rarities(s.tokens for s in (all_of[0] | all_of[1]).values())] * 2
    literal = tuple(
        _literal(row, list(of["proponent"].values())[:ALIKE], rare)
        for row, of, rare in zip(rows, kept, weights, strict=True)
    )
    hits = tuple(
        _hits(kept, direction, scored, n, None if by_text else weights[0]) for direction in SIDES
    )
    return Beside(
        *queries,
        note,
        (rows[0], rows[1]),
        (scored[0], scored[1]),
        (literal[0], literal[1]),
        (hits[0], hits[1]),
    )


def _kept(side: Side, query_id: str, by_text: bool) -> Kept:
    key: Callable[[Survivor], str] = (
        (lambda one: one.text) if by_text else (lambda one: one.content_digest)
    )
    found = side.results.proponents(query_id), side.results.opponents(query_id)
    kept: dict[Direction, dict[str, Survivor]] = {}
    for direction, survivors in zip(SIDES, found, strict=True):
        kept[direction] = {}
        for one in survivors:
            kept[direction].setdefault(key(one), one)
    return kept


def _scored(side: Side, query_id: str) -> int | None:
    """How many sequences have a score of a query."""
    table = side.results.statistics
    found: list[int] = table.filter(pc.equal(table["query_id"], query_id))[
        "n_sequences"
    ].to_pylist()
    return found[0] if found else None


def _literal(
    query: Mapping[str, Any], first: Sequence[Survivor], weights: Mapping[int, float]
) -> float | None:
    tokens = query.get("tokens")
    if not tokens or not first:
        return None
    return sum(share_of(tokens, one.tokens, weights) for one in first) / len(first)


def _hits(
    kept: Sequence[Kept],
    direction: Direction,
    scored: Sequence[int | None],
    n: int,
    weights: Mapping[int, float] | None,
) -> Hits:
    ours, theirs = (list(one[direction]) for one in kept)
    most = min(len(ours), len(theirs))
    depths = [k for k in FIRST if k <= most] or ([most] if most else [])
    larger = None if None in scored else max(one or 0 for one in scored)
    overlaps = tuple(
        Overlap(k, overlap(ours, theirs, k), None if larger is None else chance(k, larger))
        for k in depths
    )
    here, there = ([hit.tokens for hit in list(one[direction].values())[:ALIKE]] for one in kept)
    return Hits(
        direction,
        (len(ours), len(theirs)),
        overlaps,
        rank_biased_overlap(ours, theirs),
        None if weights is None else nearest(here, there, weights),
        tuple(_first(kept, direction, {*ours[:n], *theirs[:n]})),
    )


def _first(kept: Sequence[Kept], direction: Direction, keys: Iterable[str]) -> list[Hit]:
    def rank(key: str) -> tuple[int, int, str]:
        places = [one[direction][key].rank for one in kept if key in one[direction]]
        in_ours = key in kept[0][direction]
        return min(places), 0 if in_ours else 1, key

    found = []
    for key in sorted(keys, key=rank):
        shown = next(one[direction][key] for one in kept if key in one[direction])
        ours, theirs = (_place(one, key, direction) for one in kept)
        found.append(
            Hit(shown.source, shown.document_id, shown.content_digest, shown.text, ours, theirs)
        )
    return found


def _place(kept: Kept, key: str, direction: Direction) -> Place | None:
    """Where a hit is: in the direction, or, turned round, in the other."""
    other = SIDES[1 - SIDES.index(direction)]
    for where in (direction, other):
        if one := kept[where].get(key):
            return Place(where, one.rank, one.score, one.delta_nats, one.score_se)
    return None
