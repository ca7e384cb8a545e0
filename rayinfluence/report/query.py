"""One query of a report: the question, and what raises and what lowers its completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayinfluence.report.effects import effects_section
from rayinfluence.report.facts import agreement
from rayinfluence.report.groups import Groups, groups_section
from rayinfluence.report.hits import Room, hits
from rayinfluence.report.markup import Html, join, note, tag
from rayinfluence.report.pictures import Seen
from rayinfluence.report.pictures.section import pictures_section
from rayinfluence.report.question import question, teaser
from rayinfluence.report.text import shorten
from rayinfluence.report.valued.section import valued_section
from rayinfluence.storage.results import Results, is_itself
from rayinfluence.storage.results.valued import Valued

_NAME = 90


@dataclass(frozen=True)
class Found:
    """What a method found, with the groups and a sentence of statistics of every query.

    And what groups are worth by training again, if the run directory has that.
    """

    results: Results
    groups: Groups
    statistics: Mapping[str, str]
    valued: Valued | None = None

    def asks(self, query: Mapping[str, Any]) -> bool:
        """Whether a query is of the method's kind: asked, or each sequence for itself."""
        return self.results.meaning.of_itself is is_itself(query)


def query_section(
    query: Mapping[str, Any],
    anchor: str,
    methods: Sequence[Found],
    room: Room,
    *,
    unfolded: bool,
) -> Html:
    """One query as a section that can be folded.

    Args:
        query: its entry in the manifest.
        anchor: its address in the page.
        methods: what each method found.
        room: how much to show.
        unfolded: whether the section starts open.
    """
    summary = tag(
        "summary",
        tag("h2", tag("bdi", shorten(query["query_id"], _NAME))),
        tag("span", *teaser(query), class_="teaser"),
    )
    return tag(
        "details",
        summary,
        Html() if is_itself(query) else question(query),
        _methods(query, anchor, methods, room),
        class_="query",
        id=anchor,
        open=unfolded,
    )


def _methods(query: Mapping[str, Any], anchor: str, methods: Sequence[Found], room: Room) -> Html:
    """A panel per method; with more than one, radio buttons choose which panel is seen."""
    by_method = {found.results.method: found.results for found in methods}
    panels = []
    for index, found in enumerate(methods):
        panel = tag("div", _panel(query, anchor, found, by_method, room), class_="panel")
        if len(methods) > 1:
            name = f"{anchor}-m{index}"
            pick = tag(
                "input",
                type="radio",
                class_="pick",
                id=name,
                name=f"{anchor}-method",
                value=str(index),
                checked=index == 0,
            )
            label = tag("label", tag("bdi", found.results.method), for_=name)
            panels += [pick, label]
        panels.append(panel)
    return tag("div", *panels, class_="methods" if len(methods) > 1 else "method")


def _panel(
    query: Mapping[str, Any],
    anchor: str,
    found: Found,
    by_method: Mapping[str, Results],
    room: Room,
) -> Html:
    query_id = query["query_id"]
    if found.results.meaning.of_groups:
        return join((effects_section(found.results, query_id), valued_section(found.valued, query)))
    parts = [
        hits(found.results, query_id, anchor, room),
        note(found.statistics.get(query_id, "")),
    ]
    if query_id in found.results.queries:
        seen = Seen.of(found.results, query_id, room.per_side)
        parts += [
            note(agreement(found.results, by_method.values(), query_id)),
            pictures_section(seen, by_method, room.pictures),
        ]
    parts.append(groups_section(found.groups.get(query_id, [])))
    return join((*parts, valued_section(found.valued, query)))
