"""Results as commands show them: on the terminal and as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayinfluence.cli.saying import say

if TYPE_CHECKING:
    from rayinfluence.storage.results import Results
    from rayinfluence.storage.store import Store


def all_results(store: Store) -> dict[str, Results]:
    """The current results of a run, by method."""
    from rayinfluence.storage.results import Results

    first = Results.load(store)
    return {method: Results.load(store, method) for method in first.manifest["methods"]}


def write_report(store: Store, results: dict[str, Results]) -> None:
    """Write the page, or pages, and delete those of queries that are no more."""
    from rayinfluence.dataflow.kinds import is_cleaned
    from rayinfluence.dataflow.layout import REPORT, REPORT_PAGES
    from rayinfluence.report import render_report

    written = set()
    for key, page in render_report(results, REPORT, REPORT_PAGES):
        store.write(key, page.encode())
        written.add(key)
    for key in filter(is_cleaned, store.list(REPORT_PAGES).keys() - written):
        store.delete(key)


def say_report(store: Store, error: bool = False) -> None:
    """Say where the page is."""
    from rayinfluence.dataflow.layout import REPORT

    say(f"report: {store.url}/{REPORT}", error=error)
