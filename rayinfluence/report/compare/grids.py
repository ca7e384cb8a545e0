"""A comparison as tables of text and sentences, which terminal and page show alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rayinfluence.report.asked import said
from rayinfluence.report.compare.beside import ALIKE, Beside, Hit, Hits, Place
from rayinfluence.report.compare.comparison import Comparison, Pair
from rayinfluence.report.compare.groups_beside import GroupBeside, agreement
from rayinfluence.report.compare.sides import Side
from rayinfluence.report.text import (
    count,
    measured,
    one_line,
    percent,
    shorten,
    signed,
    things,
)

#: Characters of a name, of a value of a setting, and of a text.
_NAME, _VALUE, _TEXT = 60, 60, 70
#: Where there is no query that both sides were asked.
NOTHING = "No query was asked in both: there is nothing to compare."


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        title: what it shows.
        heads: of the columns.
        rows: of as many cells; empty where there is nothing to say.
        names: how many columns, from the first on, are names and no numbers.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def heading(comparison: Comparison) -> str:
    """What is compared, in a few words."""
    if comparison.of_one:
        return "Queries beside each other"
    return f"{count(len(comparison.sides))} results beside each other"


def sides(comparison: Comparison) -> list[str]:
    """What each letter stands for, and what holds of it."""
    found = []
    for side in comparison.sides:
        found += [f"{side.letter}: {side.title}", *side.notes]
    return found


def differing(comparison: Comparison) -> Grid:
    """The settings in which sides differ."""
    letters = tuple(side.letter for side in comparison.sides)
    rows = tuple(
        (one.key, *(shorten(value, _VALUE) if value else "none" for value in one.values))
        for one in comparison.differences
    )
    return Grid("What differs", ("", *letters), rows, 1 + len(letters))


def summary(pair: Pair) -> Grid:
    """All queries of a pair at a glance, by the first depth that each has."""
    if pair.of_groups:
        return _groups_at_a_glance(pair)
    rows = []
    for one, _ in pair.queries:
        cells = []
        for hits in one.hits:
            first = hits.overlaps[0] if hits.overlaps else None
            cells += (
                [f"{first.both} of {first.k}", _chance(first.by_chance), _number(hits.rank_biased)]
                if first
                else ["", "", ""]
            )
        rows.append((_called(one), *cells, _number(one.hits[0].alike)))
    heads = (
        *("query", "first proponents in both", "by chance", "rank-biased"),
        *("first opponents in both", "by chance", "rank-biased", "tokens alike"),
    )
    return Grid("All queries", heads, tuple(rows))


def _groups_at_a_glance(pair: Pair) -> Grid:
    """All queries by how alike groups are ordered on both sides."""
    columns = list(dict.fromkeys(one.column for _, groups in pair.queries for one in groups))
    rows = tuple(
        (_called(one), *(_number(agreement(groups, column)) for column in columns))
        for one, groups in pair.queries
    )
    heads = ("query", *(f"rank correlation by {one_line(column)}" for column in columns))
    return Grid("All queries", heads, rows if columns else ())


def _over_groups(pair: Pair) -> str:
    """The means over all queries of what groups have in common."""
    columns = list(dict.fromkeys(one.column for _, groups in pair.queries for one in groups))
    said_of = []
    for column in columns:
        values = [agreement(groups, column) for _, groups in pair.queries]
        known = [value for value in values if value is not None]
        if known:
            said_of.append(
                f"by {one_line(column)} {fmean(known):.2f} over "
                f"{things(len(known), 'query', 'queries')}"
            )
    if not columns:
        return (
            "Both have no groups by the same key: name the key in scan.group_by of the other side, "
            "and run it again."
        )
    return f"Mean rank correlation over groups: {'; '.join(said_of)}." if said_of else ""


def over_all(pair: Pair) -> str:
    """The means over all queries."""
    if pair.of_groups:
        return _over_groups(pair)
    known = [one.hits[0] for one, _ in pair.queries if one.hits[0].overlaps]
    if not known:
        return ""
    shares = [hits.overlaps[0].both / hits.overlaps[0].k for hits in known]
    ranked = [hits.rank_biased for hits in known if hits.rank_biased is not None]
    return (
        f"On average over {things(len(known), 'query', 'queries')}, {percent(fmean(shares))} of "
        f"the first proponents are in both; rank-biased overlap {fmean(ranked):.2f}."
    )


def questions(one: Beside) -> list[str]:
    """What is asked, on a line; two where it is not the same."""
    lines = []
    for query in one.query if one.ours != one.theirs else one.query[:1]:
        prompt, completion, other = said(query)
        than = f" rather than {one_line(other)}" if other else ""
        asked = f"{shorten(prompt, _TEXT, keep='end')} → {shorten(completion, _TEXT)}{than}"
        lines.append(f"{shorten(query['query_id'], _NAME)}: {asked}" if len(one.query) else asked)
    return lines


def sentences(pair: Pair, one: Beside) -> Iterator[str]:
    """How much both have in common, in words."""
    a, b = names(pair, one)
    if one.note:
        yield f"Beside each other: {one.note}."
    if pair.of_groups:
        return
    for hits in one.hits:
        if sentence := _in_common(hits, a, b):
            yield sentence
    known = [
        f"{percent(share)} of it in {name}"
        for share, name in zip(one.literal, (a, b), strict=True)
        if share is not None
    ]
    if known:
        yield (
            f"The question's own tokens, by rarity, are in the first {ALIKE} proponents: "
            f"{' and '.join(known)}."
        )


def _in_common(hits: Hits, a: str, b: str) -> str:
    what = f"{hits.direction}s"
    if not any(hits.kept):
        return ""
    if not all(hits.kept):
        kept = " and ".join(
            f"{count(n)} in {name}" for n, name in zip(hits.kept, (a, b), strict=True)
        )
        return f"Of {what} there are {kept}: nothing can be compared."
    shares = [
        f"{one.both} of the first {one.k} ({percent(one.both / one.k)}{_by_chance(one.by_chance)})"
        for one in hits.overlaps
    ]
    text = f"{what.capitalize()} in both: {', '.join(shares)}. "
    text += f"Rank-biased overlap {_number(hits.rank_biased)}."
    if hits.alike is not None:
        text += f" Token overlap of the first {ALIKE}: {_number(hits.alike)}."
    return text


def hit_grid(pair: Pair, one: Beside, hits: Hits) -> Grid:
    """The first hits of a direction side by side."""
    a, b = names(pair, one)
    if pair.of_groups:
        return Grid("", (), ())
    numbers = (f"rank {a}", f"rank {b}", "change", f"score {a}", f"score {b}")
    heads = ("source, document, text", *numbers)
    rows = tuple(_hit(hit, hits) for hit in hits.first)
    return Grid(f"First {hits.direction}s side by side", heads, rows)


def _hit(hit: Hit, hits: Hits) -> tuple[str, ...]:
    called = " · ".join(filter(None, (one_line(hit.source), one_line(hit.document_id))))
    ranks = [
        _rank(place, kept, hits.direction)
        for place, kept in zip((hit.ours, hit.theirs), hits.kept, strict=True)
    ]
    places = [p for p in (hit.ours, hit.theirs) if p is not None and p.direction == hits.direction]
    change = f"{places[0].rank - places[1].rank:+d}" if len(places) == 2 else ""
    scores = [
        measured(place.score, place.score_se) if place else "" for place in (hit.ours, hit.theirs)
    ]
    return f"{called}: {shorten(hit.text, _TEXT)}", *ranks, change, *scores


def _rank(place: Place | None, kept: int, direction: str) -> str:
    if place is None:
        return f"> {count(kept)}" if kept else "none"
    return str(place.rank) if place.direction == direction else f"{place.direction} {place.rank}"


def group_grids(pair: Pair, one: Beside, groups: Sequence[GroupBeside]) -> list[Grid]:
    """Groups side by side, a table for each key."""
    a, b = names(pair, one)
    heads = tuple(f"{what} {name}" for what in ("of the top", "lift", "mean") for name in (a, b))
    row = _group
    if pair.of_groups:
        heads = tuple(
            f"{_called_whole(side)} {name}" for side, name in zip(pair.sides, (a, b), strict=True)
        )
        row = _group_left_out
    found = []
    for column in dict.fromkeys(group.column for group in groups):
        rows = tuple(row(group) for group in groups if group.column == column)
        found.append(Grid(f"By {one_line(column)}", ("", *heads), rows))
    return found


def _group(group: GroupBeside) -> tuple[str, ...]:
    both = (group.ours, group.theirs)
    tops = [f"{one.in_top} of {one.top}" if one and one.top else "" for one in both]
    lifts = ["" if one is None else _number(one.lift) for one in both]
    scores = [None if one is None else one.mean_score for one in both]
    means = ["" if score is None else signed(score) for score in scores]
    return one_line(group.name), *tops, *lifts, *means


def _called_whole(side: Side) -> str:
    """What stands in the column of a side of groups that one side left out."""
    meaning = side.results.meaning
    if meaning.of_groups:
        return "effect"
    return "sum, nats" if meaning.predicts else "sum"


def _group_left_out(group: GroupBeside) -> tuple[str, ...]:
    both = (group.ours, group.theirs)
    cells = [
        "" if one is None or one.whole is None else measured(one.whole, one.effect_se)
        for one in both
    ]
    return one_line(group.name), *cells


def how_to_read(comparison: Comparison) -> list[str]:
    """What the numbers mean."""
    if all(pair.of_groups for pair in comparison.pairs):
        return [
            "Effect: what models trained on everything say, less what those say that were trained "
            "without the group. Sum: of all scores over the group; in nats, over N, it predicts "
            "the effect to first order. Rank correlation: Spearman's, over the groups that were "
            "left out."
        ]
    return [
        "In both: of the first k of each, how many are among the first k of the other; the same "
        "text is one, however often it occurs. By chance: what two orders drawn at random would "
        "have, k over the larger number of scored sequences.",
        "Rank-biased overlap: 0 where nothing is in common, 1 of equal orders; the first 10 have "
        "86 % of the weight (p = 0.9). Beyond what both have kept it is taken to go on as it is.",
        f"Token overlap of the first {ALIKE}: how alike each is to the nearest on the other side, "
        "by the tokens that both have, of which rare ones weigh more: 1 where the hits are the "
        "same. What is not the same sequence may say the same.",
        "A rank > n: not among the n that were kept there. It may stand anywhere after them, or "
        "may not have been scored there at all; none: no hit of that direction was kept. "
        "Change: by how many ranks it stands higher on the second side.",
    ]


def names(pair: Pair, one: Beside) -> tuple[str, str]:
    """What the two columns of a query are called: the sides, or the queries of one."""
    if pair.sides[0] is pair.sides[1]:
        ours, theirs = (shorten(name, _NAME) for name in (one.ours, one.theirs))
        return ours, theirs
    return pair.sides[0].letter, pair.sides[1].letter


def _called(one: Beside) -> str:
    ours, theirs = (shorten(name, _NAME) for name in (one.ours, one.theirs))
    return ours if ours == theirs else f"{ours} / {theirs}"


def _by_chance(share: float | None) -> str:
    return "" if share is None else f"; by chance {percent(share)}"


def _chance(share: float | None) -> str:
    return "" if share is None else percent(share)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
