"""All queries at a glance: a row for each, and the documents that are on top for several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rayinfluence.report.markup import Html, note, tag
from rayinfluence.report.question import teaser
from rayinfluence.report.tables import Cell, table
from rayinfluence.report.text import count, per_token_probability, percent, shorten
from rayinfluence.storage.results import Results

_NAME = 60
_TOP = 10
_MOST_DOCUMENTS = 50


class Row(NamedTuple):
    """A query of the overview: its row, and where it is."""

    query: Mapping[str, Any]
    href: str


def overview(
    rows: Sequence[Row], results: Results, n: int, href: Callable[[str, Any], str]
) -> Html:
    """A table of the queries, and one of the documents that lead them, by one method.

    Args:
        rows: the queries in their order.
        results: of the method.
        n: how many first proponents of a query its page has.
        href: the address of a hit, by query id and survivor.
    """
    sums = _raising(results)
    queries = table(
        f"{count(len(rows))} questions",
        ("question", "probability", "its own choice", "warning", "top source", "top share"),
        [_query(row, results, sums.get(row.query["query_id"])) for row in rows],
    )
    return tag(
        "section",
        tag("h2", "All questions"),
        queries,
        tag(
            "p",
            f"By {results.method}. Probability is that of the completion, per token. Its own "
            "choice: whether the model would say it first. Top source: of the first proponent. "
            "Top share: what the first proponent holds of all positive scores.",
            class_="quiet",
        ),
        _documents(rows, results, min(n, _TOP), href),
        class_="overview",
        id="overview",
    )


def _query(row: Row, results: Results, raising: float | None) -> list[Cell]:
    query = row.query
    link = tag("a", tag("bdi", shorten(query["query_id"], _NAME)), href=row.href)
    asked = tag("span", *teaser(query), class_="teaser")
    probability = per_token_probability(query)
    greedy = query.get("greedy")
    first = next(iter(_first(results, query["query_id"], 1)), None)
    share = None if first is None else _share(first.score, raising)
    return [
        Cell(tag("span", link, asked), str(query["query_id"])),
        Cell("" if probability is None else percent(probability), probability),
        Cell("" if greedy is None else "yes" if greedy else "no"),
        Cell("yes" if query.get("warning") else ""),
        Cell(tag("bdi", shorten(first.source, _NAME)) if first else ""),
        Cell("" if share is None else percent(share), share),
    ]


def _raising(results: Results) -> dict[str, float | None]:
    """By query id, the sum of all scores that raise, where the tables have it."""
    columns = (results.statistics[name].to_pylist() for name in ("query_id", "positive_sum"))
    return dict(zip(*columns, strict=True))


def _share(score: float, total: float | None) -> float | None:
    if not total or not math.isfinite(score):
        return None
    return min(1.0, max(0.0, score / total))


def _documents(
    rows: Sequence[Row], results: Results, n: int, href: Callable[[str, Any], str]
) -> Html:
    """The documents among the first proponents of most queries."""
    found: dict[tuple[str | None, str], list[tuple[str, Any]]] = {}
    for row in rows:
        query_id = row.query["query_id"]
        seen = set()
        for hit in _first(results, query_id, n):
            key = (hit.document_file, hit.document_id)
            if key not in seen:
                found.setdefault(key, []).append((query_id, hit))
                seen.add(key)
    leading = sorted(
        (item for item in found.items() if len(item[1]) > 1),
        key=lambda item: (-len(item[1]), min(hit.rank for _, hit in item[1]), str(item[0])),
    )
    if not leading:
        return Html()
    lines = []
    for (file, name), several in leading[:_MOST_DOCUMENTS]:
        query_id, best = min(several, key=lambda pair: pair[1].rank)
        link = tag("a", tag("bdi", shorten(name or "no id", _NAME)), href=href(query_id, best))
        lines.append(
            [
                Cell(link, name),
                Cell(tag("bdi", shorten(best.source, _NAME))),
                Cell(tag("bdi", shorten(file or "", _NAME, keep="end"))),
                Cell(count(len(several)), len(several)),
                Cell(count(best.rank), best.rank),
            ]
        )
    more = len(leading) - len(lines)
    return tag(
        "details",
        tag("summary", f"Documents among the first {n} of several questions"),
        table(
            "Documents",
            ("document", "source", "file", "questions", "best rank"),
            lines,
        ),
        note(f"{count(more)} more lead at least two questions." if more else ""),
        class_="fold",
    )


def _first(results: Results, query_id: str, n: int) -> Sequence[Any]:
    return results.proponents(query_id, n) if query_id in results.queries else ()
