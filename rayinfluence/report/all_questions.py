"""All queries at a glance: a row for each, and the documents that are on top for several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rayinfluence.report.markup import Html, note, tag
from rayinfluence.report.overview import FIRST, AskedQuery, LeadingDocument, Overview
from rayinfluence.report.question import teaser
from rayinfluence.report.tables import Cell, table
from rayinfluence.report.text import count, percent, shorten
from rayinfluence.storage.results.likelihood import per_token_probability

_NAME = 60


class Row(NamedTuple):
    """A query of the overview: its row, and where it is."""

    query: Mapping[str, Any]
    href: str


def overview(rows: Sequence[Row], found: Overview, href: Callable[[LeadingDocument], str]) -> Html:
    """A table of the queries, and one of the documents that lead them, by one method.

    Args:
        rows: the queries in their order.
        found: by the method.
        href: the address of a document's best hit.
    """
    asked = {query.query_id: query for query in found.queries}
    # What all scores add up to is not known of results without some sequences.
    shares = any(query.top_1_share is not None for query in found.queries)
    heads = ("question", "probability", "its own choice", "warning", "top source", "top share")
    queries = table(
        f"{count(len(rows))} questions",
        heads if shares else heads[:-1],
        [_query(row, asked.get(row.query["query_id"]), shares) for row in rows],
    )
    about = " Top share: what the first proponent holds of all positive scores of the scan."
    return tag(
        "section",
        tag("h2", "All questions"),
        queries,
        tag(
            "p",
            f"By {found.method}. Probability is that of the completion, per token. Its own "
            "choice: whether the model would say it first. Top source: of the first proponent."
            + (about if shares else ""),
            class_="quiet",
        ),
        _documents(found, href),
        class_="overview",
        id="overview",
    )


def _query(row: Row, found: AskedQuery | None, shares: bool) -> list[Cell]:
    """A row; what a method found is empty for queries that it does not ask."""
    query = row.query
    link = tag("a", tag("bdi", shorten(query["query_id"], _NAME)), href=row.href)
    asked = tag("span", *teaser(query), class_="teaser")
    probability = per_token_probability(query)
    greedy = query.get("greedy")
    source = (found and found.source) or ""
    share = found.top_1_share if found else None
    return [
        Cell(tag("span", link, asked), str(query["query_id"])),
        Cell("" if probability is None else percent(probability), probability),
        Cell("" if greedy is None else "yes" if greedy else "no"),
        Cell("yes" if query.get("warning") else ""),
        Cell(tag("bdi", shorten(source, _NAME))),
        *([Cell("" if share is None else percent(share), share)] if shares else []),
    ]


def _documents(found: Overview, href: Callable[[LeadingDocument], str]) -> Html:
    """The documents among the first proponents of several queries."""
    leading = [one for one in found.documents if one.n_queries > 1]
    if not leading:
        return Html()
    lines = [
        [
            Cell(
                tag("a", tag("bdi", shorten(one.document_id or "no id", _NAME)), href=href(one)),
                one.document_id,
            ),
            Cell(tag("bdi", shorten(one.source, _NAME))),
            Cell(tag("bdi", shorten(one.document_file or "", _NAME, keep="end"))),
            Cell(count(one.n_queries), one.n_queries),
            Cell(count(one.n_first), one.n_first),
            Cell(count(one.best_rank), one.best_rank),
        ]
        for one in leading
    ]
    more = found.n_shared - len(lines)
    return tag(
        "details",
        tag("summary", f"Documents among the first {FIRST} of several questions"),
        table(
            "Documents",
            ("document", "source", "file", "questions", "first in", "best rank"),
            lines,
        ),
        note(f"{count(more)} more lead at least two questions." if more else ""),
        class_="fold",
    )
