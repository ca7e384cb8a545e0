"""Where the influence comes from: groups that the top has more of than the corpus has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayinfluence.report.markup import Html, tag
from rayinfluence.report.tables import scrolled
from rayinfluence.report.text import count, percent, signed
from rayinfluence.storage.results import Results

_MOST_ROWS = 12
_HEADS = ("value", "sequences", "of the corpus", "of the top", "lift", "95 %", "mean score")


@dataclass(frozen=True)
class Grouping:
    """The groups of one query by one metadata key: the first rows, and how many there are."""

    column: str
    rows: Sequence[Mapping[str, Any]]
    n_rows: int


#: Of each query, by its id.
Groups = Mapping[str, Sequence[Grouping]]


def groups_of(results: Results) -> Groups:
    """What there is to show of each query; the tables are in the order of lifts already."""
    if results.meaning.of_groups:  # effects have a table of their own
        return {}
    table = results.groups
    keys = list(zip(table["query_id"].to_pylist(), table["column"].to_pylist(), strict=True))
    starts = [place for place, key in enumerate(keys) if place == 0 or key != keys[place - 1]]
    groups: dict[str, list[Grouping]] = {}
    for start, size in zip(starts, np.diff([*starts, len(keys)]).tolist(), strict=True):
        query_id, column = keys[start]
        rows = table.slice(start, min(size, _MOST_ROWS)).to_pylist()
        if size == 1 and rows[0]["value_type"] == "missing":
            continue  # the default key, in a corpus that has no such thing
        groups.setdefault(query_id, []).append(Grouping(column, rows, size))
    return groups


def groups_section(groupings: Sequence[Grouping]) -> Html:
    """A table per metadata key, the group with the largest lift first."""
    if not groupings:
        return Html()
    parts = []
    for grouping in groupings:
        top = grouping.rows[0].get("top")
        caption = f", among the first {count(top)} proponents" if top else ""
        table = tag(
            "table",
            tag("caption", "By ", tag("bdi", grouping.column), caption),
            tag("thead", tag("tr", *(tag("th", name, scope="col") for name in _HEADS))),
            tag("tbody", *map(_row, grouping.rows)),
        )
        rest = grouping.n_rows - len(grouping.rows)
        more = f"{count(rest)} with smaller lifts are in the results table." if rest else ""
        parts += [scrolled(f"By {grouping.column}", table), tag("p", more, class_="quiet")]
    note = (
        "Lift is a group's share of the top over its share of the corpus, with its 95 % interval; "
        "1 is what chance gives. The mean score is over all scanned sequences of the group, with "
        "its standard error. Sums over thousands of small scores nearly cancel and grow with the "
        "size of a group, so they are in the results table alone."
    )
    title = tag("h3", "Where the influence comes from")
    return tag("section", title, tag("p", note, class_="quiet"), *parts, class_="groups")


def _row(row: Mapping[str, Any]) -> Html:
    lifts = [row.get(name) for name in ("lift", "lift_low", "lift_high")]
    lift, low, high = ("" if value is None else _ratio(value) for value in lifts)
    top, inside = row.get("top"), row.get("in_top") or 0
    mean, error = row.get("mean_score"), row.get("mean_score_error")
    margin = "" if error is None else f" ± {signed(error).removeprefix('+')}"
    return tag(
        "tr",
        tag("th", tag("bdi", group_name(row)), scope="row"),
        tag("td", count(row["n_sequences"])),
        tag("td", _share(row.get("share_of_corpus"))),
        tag("td", f"{count(inside)} ({_share(inside / top)})" if top else ""),
        tag("td", lift),
        tag("td", f"{low} to {high}" if low else ""),
        tag("td", ("" if mean is None else signed(mean)) + margin),
    )


def group_name(row: Mapping[str, Any]) -> str:
    """What the group of a row is called."""
    return value_of(str(row["value"]), row.get("value_type"))


def value_of(value: str, kind: str | None) -> str:
    """A value as its type needs it: the number 1 and the text "1" are two groups."""
    if kind == "missing":
        return "(none given)"
    if kind == "other":
        return "(other values)"
    if kind == "string":
        return value or "(empty)"
    return f"{value} ({kind})"


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"
