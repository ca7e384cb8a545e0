"""The results as one HTML document that needs nothing else: no network, no script to be read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from rayinfluence.report.facts import statistics
from rayinfluence.report.groups import groups_of
from rayinfluence.report.markup import Html, tag
from rayinfluence.report.query import query_section, teaser
from rayinfluence.report.summary import run_summary, title
from rayinfluence.report.text import count, shorten
from rayinfluence.storage.results import Results, is_itself

_MAX_OPEN = 3
_MIN_FILTER = 8
# Characters of text kept on each side of a sequence's hottest part, and in all of the page's folds.
_MIN_FOLD, _MAX_FOLD, _ALL_FOLDS = 200, 4000, 2_000_000
# Sequences shown per query, method and side, and on all of the page: browsers slow down beyond.
_MIN_SIDE, _MAX_SIDE, _ALL_CARDS = 5, 20, 3000


def render_page(results_by_method: Mapping[str, Results], *, per_side: int | None = None) -> str:
    """Show the results of one or more methods as a self-contained HTML page.

    Equal inputs give equal text. Everything from the results is escaped, and the page's own policy
    forbids requests of any kind and scripts other than its own.

    Args:
        results_by_method: what each method found, in the order in which to offer them.
        per_side: how many proponents and opponents to show per query and method; when not given,
            20, and fewer (at least 5) where there are many queries.

    Raises:
        ValueError: there is no method to show.
    """
    if not results_by_method:
        raise ValueError("a report needs the results of at least one method")
    methods = [
        (results, groups_of(results), statistics(results)) for results in results_by_method.values()
    ]
    queries: dict[str, dict[str, Any]] = {}
    for results, *_ in reversed(methods):
        queries = results.queries | queries
    if per_side is None:
        per_side = _ALL_CARDS // (2 * max(1, len(queries)) * len(methods))
        per_side = max(_MIN_SIDE, min(_MAX_SIDE, per_side))
    for results, *_ in methods:
        results.keep(per_side)
    n_folds = 4 * per_side * len(queries) * len(methods)
    fold = max(_MIN_FOLD, min(_MAX_FOLD, _ALL_FOLDS // max(n_folds, 1)))
    sections = [
        query_section(
            number,
            query,
            [one for one in methods if _asks(one[0], query)],
            per_side=per_side,
            fold=fold,
            unfolded=number == 1 or len(queries) <= _MAX_OPEN,
        )
        for number, query in enumerate(queries.values(), start=1)
    ]
    main = tag("main", *sections or [tag("p", "The run has no queries.", class_="quiet")])
    navigation = _navigation(list(queries.values())) if len(queries) > 1 else Html()
    name = title(methods[0][0].manifest)
    layout = tag("div", navigation, main, class_="layout")
    body = tag("body", run_summary(results_by_method), layout)
    return f"<!doctype html>\n{tag('html', _head(name), body, lang='en')}\n"


def _asks(results: Results, query: Mapping[str, Any]) -> bool:
    """Whether a query is of the method's kind: one that is asked, or each sequence for itself."""
    return results.meaning.of_itself is is_itself(query)


def _head(name: str) -> Html:
    style, script = _resource("page.css"), _resource("page.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", name),
        tag("style", style),
        tag("script", script, type="module"),
    )


def _navigation(queries: Sequence[Mapping[str, Any]]) -> Html:
    links = [
        tag(
            "li",
            tag("a", tag("bdi", shorten(query["query_id"], 60)), href=f"#q{number}"),
            tag("span", *teaser(query)),
        )
        for number, query in enumerate(queries, start=1)
    ]
    filtering = tag(
        "input", type="search", id="filter", placeholder="Filter", aria_label="Filter queries"
    )
    tools = tag(
        "p",
        filtering if len(queries) >= _MIN_FILTER else "",
        tag("button", "Open all", type="button", id="toggle"),
        class_="tools",
        hidden=True,
    )
    heading = tag("h2", f"{count(len(queries))} queries")
    return tag("nav", heading, tools, tag("ol", *links), aria_label="Queries")


def _resource(name: str) -> Html:
    """A file of this package, as it is: our own text, the only markup that is not made by `tag`."""
    return Html(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
