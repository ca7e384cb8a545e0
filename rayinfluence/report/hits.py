"""What a method found for one query: proponents and opponents, near copies under what they copy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rayinfluence.report.anchors import HitAnchors
from rayinfluence.report.asked import raised
from rayinfluence.report.card import Beside, card
from rayinfluence.report.citation import Cited
from rayinfluence.report.facts import rescoring, together
from rayinfluence.report.lead import lead
from rayinfluence.report.markup import Html, join, note, tag
from rayinfluence.report.text import count
from rayinfluence.storage.results import Direction, Results, Survivor, is_difference


@dataclass(frozen=True)
class Room:
    """How much a page has room for.

    Attributes:
        per_side: hits per query, method and direction.
        fold: characters of text on each side of a hit's hottest part.
        context: characters of its document on each side of a hit.
        pairs: bytes of a hit's scores by pairs of tokens.
        pictures: characters of the pictures of a query by one method.
    """

    per_side: int
    fold: int
    context: int
    pairs: int
    pictures: int


def hits(results: Results, query_id: str, anchor: str, room: Room) -> Html:
    """Both sides of one query by one method, with what is to be said of them.

    Args:
        results: of the method.
        query_id: of the query.
        anchor: the query's address in the page.
        room: how much to show.
    """
    if query_id not in results.queries:
        return tag("p", "This method was not run on this query.", class_="quiet")
    sides: dict[str, tuple[Sequence[Survivor], Direction]] = {
        "Proponents": (results.proponents(query_id, room.per_side), "proponent"),
        "Opponents": (results.opponents(query_id, room.per_side), "opponent"),
    }
    meaning = results.meaning
    if meaning.of_itself:
        del sides["Opponents"]  # no score is negative
    shown = [(side, s) for side, (found, _) in sides.items() for s in found]
    query = results.queries[query_id]
    beside = Beside(
        largest=max((abs(s.score) for _, s in shown if math.isfinite(s.score)), default=0.0),
        names={s.sequence_id: f"{side.lower()[:-1]} {s.rank}" for side, s in shown},
        ahead=meaning.ahead,
        odds=is_difference(query),
        cited=Cited(results.method, query, str(results.manifest.get("fingerprint") or "")),
        fold=room.fold,
        context=room.context,
        pairs=room.pairs,
    )
    anchors = HitAnchors(anchor)
    columns = [
        _side(
            side,
            results.count(query_id, kind),
            found,
            {id(s): anchors.of(results.method, s) for s in found},
            beside,
            raised(query) if meaning.directed else None,
        )
        for side, (found, kind) in sides.items()
    ]
    notes = (note(together(results, query_id)), note(rescoring(results, query_id)))
    first = next(iter(sides["Proponents"][0]), None)
    opening = lead(first, query, beside.odds) if meaning.directed else Html()
    return join((opening, tag("div", *columns, class_="sides"), *notes))


def _side(
    side: str,
    found: int,
    shown: Sequence[Survivor],
    anchors: dict[int, str],
    beside: Beside,
    what: str | None,
) -> Html:
    """One side; ``what`` its sequences are estimated to raise or lower, if anything."""
    raises = side == "Proponents"
    verb, adjective = ("raise", "alike") if raises else ("lower", "unlike")
    about = f" {adjective}" if what is None else f" estimated to {verb} {what}"
    heading = tag("h3", side, tag("small", about))
    rest = found - len(shown)
    items = [
        card(first, anchors[id(first)], beside, _copies(copies, anchors, beside))
        for first, copies in folded(shown)
    ]
    body = tag("ol", *items) if found else tag("p", "None were found.", class_="quiet")
    more = f"{count(rest)} more in the results table (Parquet); {len(shown)} are shown here."
    note = tag("p", more, class_="quiet") if rest > 0 else Html()
    return tag("section", heading, body, note, class_=f"side {side.lower()}")


def folded(shown: Iterable[Survivor]) -> list[tuple[Survivor, list[Survivor]]]:
    """Hits in their order, each with its near copies that would follow it."""
    groups: dict[int, list[Survivor]] = {}
    for hit in shown:
        first = hit.near_duplicate_of
        first = hit.sequence_id if first is None or first not in groups else first
        groups.setdefault(first, []).append(hit)
    return [(first, copies) for first, *copies in groups.values()]


def _copies(copies: Sequence[Survivor], anchors: dict[int, str], beside: Beside) -> Html:
    if not copies:
        return Html()
    label = f"and {count(len(copies))} near cop{'y' if len(copies) == 1 else 'ies'}"
    cards = (card(one, anchors[id(one)], beside) for one in copies)
    return tag("details", tag("summary", label), tag("ol", *cards), class_="fold copies")
