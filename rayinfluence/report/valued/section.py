"""What groups are worth to a query, in the report of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayinfluence.report.compare.page import grid_table
from rayinfluence.report.markup import Html, tag
from rayinfluence.report.valued import grids
from rayinfluence.storage.results.valued import Valued


def valued_section(found: Valued | None, query: Mapping[str, Any]) -> Html:
    """The table of a query; nothing where it was not asked.

    Args:
        found: what groups of the same corpus are worth, if that is known.
        query: its entry in the results.
    """
    utilities = () if found is None else found.utilities
    places = [at for at, one in enumerate(utilities) if one.digest == query.get("digest", "")]
    if found is None or not places:
        return Html()
    note = (
        "Found by training on coalitions of groups (`rayinfluence shapley`; shapley.html has "
        "pictures and more). Sums are of scores, as on this page."
    )
    return tag(
        "section",
        tag("h3", "What groups are worth, by training again"),
        tag("p", note, class_="quiet"),
        grid_table(grids.utility_grid(found, places[0])),
        class_="groups",
    )
