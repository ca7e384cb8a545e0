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
    """Write the page."""
    from rayinfluence.dataflow.layout import REPORT
    from rayinfluence.report import render_page

    store.write(REPORT, render_page(results).encode())


def say_report(store: Store, error: bool = False) -> None:
    """Say where the page is."""
    from rayinfluence.dataflow.layout import REPORT

    say(f"report: {store.url}/{REPORT}", error=error)
