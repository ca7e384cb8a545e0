"""What groups are worth to a query, in the report of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayinfluence.report.compare.page import grid_table
from rayinfluence.report.markup import Html, tag
from rayinfluence.report.valued import grids
from rayinfluence.storage.results.valued import Valued


def valued_section(found: Valued | None, manifest: Mapping[str, Any], query_id: str) -> Html:
    """The table of a query; nothing where there is none, or of another corpus.

    Args:
        found: what the run directory has, if anything.
        manifest: of the results that are shown.
        query_id: of the query.
    """
    corpus = (manifest.get("corpus") or {}).get("fingerprint")
    if found is None or found.corpus != corpus:
        return Html()
    place = next(
        (
            number
            for number, one in enumerate(found.utilities)
            if one.kind == "queries" and one.name == query_id
        ),
        None,
    )
    if place is None:
        return Html()
    note = (
        "Found by training on coalitions of groups (`rayinfluence shapley`; shapley.html has "
        "pictures and more). Sums are of the scores on this page."
    )
    return tag(
        "section",
        tag("h3", "What groups are worth, by training again"),
        tag("p", note, class_="quiet"),
        grid_table(grids.utility_grid(found, place)),
        class_="groups",
    )
