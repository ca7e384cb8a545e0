"""Results as HTML that needs nothing else: no network, no script to be read.

One page where there is room for all queries on it; else a page of all queries at a glance, and
beside it one of each query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rayinfluence.report.all_questions import Row, overview
from rayinfluence.report.anchors import HitAnchors, query_anchors
from rayinfluence.report.effects import effects_overview
from rayinfluence.report.facts import statistics
from rayinfluence.report.frame import framed
from rayinfluence.report.groups import groups_of
from rayinfluence.report.hits import Room
from rayinfluence.report.markup import Html, join, tag
from rayinfluence.report.overview import LeadingDocument, Overview
from rayinfluence.report.query import Found, query_section
from rayinfluence.report.summary import about
from rayinfluence.report.top import title, top
from rayinfluence.storage.results import Results

_MAX_OPEN = 3
#: Characters of text kept on each side of a sequence's hottest part, and in all of a page's folds.
_MIN_FOLD, _MAX_FOLD, _ALL_FOLDS = 200, 4000, 2_000_000
#: Hits shown per query, method and side, and on all of a page: browsers slow down beyond.
_MIN_SIDE, _MAX_SIDE, _ALL_CARDS = 5, 20, 3000
#: Bytes of a page that several questions share.
_ALL_BYTES = 15_000_000
#: Bytes of scores by pairs of tokens on a page.
_ALL_PAIRS = 5_000_000
#: Characters of documents around hits on a page.
_ALL_CONTEXT = 1_000_000
#: Characters of pictures on a page.
_ALL_PICTURES = 4_000_000


def render_page(
    results_by_method: Mapping[str, Results],
    *,
    per_side: int | None = None,
    context: int | None = None,
) -> str:
    """Show the results of one or more methods as a self-contained HTML page.

    Equal inputs give equal text. Everything from the results is escaped, and the page's own policy
    forbids requests of any kind and scripts other than its own.

    Args:
        results_by_method: what each method found, in the order in which to offer them.
        per_side: how many proponents and opponents to show per query and method; when not given,
            20, and fewer (at least 5) where there are many queries.
        context: how many characters of its document to show on either side of a hit, if the tables
            have them; when not given, as many as there is room for.

    Raises:
        ValueError: there is no method to show.
    """
    report = _Report(results_by_method, per_side, context)
    return report.whole()


def render_report(
    results_by_method: Mapping[str, Results],
    name: str,
    folder: str,
    *,
    per_side: int | None = None,
    context: int | None = None,
) -> Iterator[tuple[str, str]]:
    """The same as one page, or as several where one would be too heavy for a browser.

    Args:
        results_by_method: what each method found, in the order in which to offer them.
        name: of the page, or of the first of several, as a file.
        folder: of the others, beside it.
        per_side: how many proponents and opponents to show per query and method; when not given,
            20, and down to 5 where that leaves one page.
        context: as of :func:`render_page`.

    Yields:
        The name of each page, from where ``name`` is, and the page; the first of them last, so
        that it leads to nothing that is not there.

    Raises:
        ValueError: there is no method to show.
    """
    report = _Report(results_by_method, per_side, context)
    if report.fits:
        page = report.whole()
        # What hits take goes by how many of their tokens are coloured: it is known afterwards.
        if len(page.encode()) <= _ALL_BYTES:
            yield name, page
            return
    for query_id, anchor in report.anchors.items():
        yield f"{folder}/{anchor}.html", report.of_query(query_id, f"../{name}")
    yield name, report.index(folder)


class _Report:
    """A report of some methods' results: what its pages have in common."""

    def __init__(
        self,
        results_by_method: Mapping[str, Results],
        per_side: int | None,
        context: int | None,
    ) -> None:
        if not results_by_method:
            raise ValueError("a report needs the results of at least one method")
        self._results = results_by_method
        self._found = [
            Found(results, groups_of(results), statistics(results), results.valued)
            for results in results_by_method.values()
        ]
        self._queries: dict[str, dict[str, Any]] = {}
        for found in reversed(self._found):
            self._queries = found.results.queries | self._queries
        self.anchors = query_anchors(self._queries.values())
        columns = 2 * max(1, len(self._queries)) * len(self._found)
        self.fits = columns * (per_side or _MIN_SIDE) <= _ALL_CARDS
        if per_side is None:
            per_side = _MAX_SIDE
            if self.fits:
                per_side = max(_MIN_SIDE, min(_MAX_SIDE, _ALL_CARDS // columns))
        self._per_side, self._context = per_side, context
        self._first = self._found[0].results
        self._name = title(self._first.manifest)
        self._fingerprint = str(self._first.manifest.get("fingerprint") or "")

    def whole(self) -> str:
        """All on one page."""
        for found in self._found:
            found.results.keep(self._per_side)
        room = self._room(len(self._queries))
        sections = [
            self._section(query_id, room, unfolded=place == 0 or len(self._queries) <= _MAX_OPEN)
            for place, query_id in enumerate(self._queries)
        ]
        return self._framed(self._top(), self._overview(), _main(sections), self._about())

    def index(self, folder: str) -> str:
        """All queries at a glance, with links to their pages."""
        pages = {query_id: f"{folder}/{anchor}.html" for query_id, anchor in self.anchors.items()}
        return self._framed(self._top(), _main([self._overview(pages)]), self._about())

    def of_query(self, query_id: str, index: str) -> str:
        """A query's own page."""
        for found in self._found:
            found.results.keep(self._per_side, [query_id])
        section = self._section(query_id, self._room(1), unfolded=True)
        back = tag("p", tag("a", "All questions", href=index), class_="links")
        query = self._queries[query_id]
        return self._framed(back, top(self._results, [query], index), _main([section]))

    def _framed(self, *body: str) -> str:
        skip = tag("a", "Skip to the hits", href="#main", class_="skip")
        return framed(self._name, skip, *body, fingerprint=self._fingerprint)

    def _top(self) -> Html:
        return top(self._results, list(self._queries.values()))

    def _about(self) -> Html:
        return about(self._results)

    def _overview(self, pages: Mapping[str, str] | None = None) -> Html:
        """The table of queries, where there are several; on ``pages`` of their own, or on this."""
        if len(self._queries) < 2:
            return Html()
        if self._first.meaning.of_groups:
            return join((effects_overview(self._first), self._questions(pages)))
        return self._questions(pages)

    def _questions(self, pages: Mapping[str, str] | None) -> Html:
        at = pages or {}
        rows = [
            Row(query, f"{at.get(query_id, '')}#{self.anchors[query_id]}")
            for query_id, query in self._queries.items()
        ]

        def href(document: LeadingDocument) -> str:
            query_id = document.best_query_id
            # That of its query where the page has no such hit.
            anchor, taken = self.anchors[query_id], HitAnchors(self.anchors[query_id])
            if document.best_rank <= self._per_side:
                for hit in self._first.proponents(query_id, document.best_rank):
                    anchor = taken.of(self._first.method, hit)
            return f"{at.get(query_id, '')}#{anchor}"

        return overview(rows, Overview.of(self._first), href)

    def _section(self, query_id: str, room: Room, *, unfolded: bool) -> Html:
        query = self._queries[query_id]
        methods = [found for found in self._found if found.asks(query)]
        return query_section(query, self.anchors[query_id], methods, room, unfolded=unfolded)

    def _room(self, n_queries: int) -> Room:
        n = 2 * self._per_side * max(1, n_queries) * len(self._found)
        fold = max(_MIN_FOLD, min(_MAX_FOLD, _ALL_FOLDS // max(2 * n, 1)))
        panels = max(1, n_queries) * len(self._found)
        context = _ALL_CONTEXT // max(2 * n, 1)
        if self._context is not None:
            context = min(context, self._context)
        pairs, pictures = _ALL_PAIRS // max(n, 1), _ALL_PICTURES // panels
        return Room(self._per_side, fold, context, pairs, pictures)


def _main(sections: list[Html]) -> Html:
    body = sections or [tag("p", "The run has no queries.", class_="quiet")]
    return tag("main", *body, id="main", tabindex="-1")
