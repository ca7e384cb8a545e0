"""Results as commands show them: on the terminal and as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayinfluence.cli.saying import say

if TYPE_CHECKING:
    from rayinfluence.storage.results import Results
    from rayinfluence.storage.store import Store


def all_results(store: Store, version: str | None = None) -> dict[str, Results]:
    """The results of a run by method: the current ones, or those of a fingerprint."""
    from rayinfluence.storage.results import Results

    first = Results.load(store, version=version)
    methods = first.manifest["methods"]
    return {method: Results.load(store, method, version) for method in methods}


def write_report(store: Store, results: dict[str, Results], context: int | None = None) -> None:
    """Write the page, or pages, and delete those of queries that are no more."""
    from rayinfluence.dataflow.kinds import is_cleaned
    from rayinfluence.dataflow.layout import REPORT, REPORT_PAGES

    written = _write(store, results, REPORT, REPORT_PAGES, context)
    for key in filter(is_cleaned, store.list(REPORT_PAGES).keys() - written):
        store.delete(key)


def write_view(store: Store, results: dict[str, Results], context: int | None = None) -> str:
    """Write the page, or pages, of results that are not all of the current ones; give its key."""
    from rayinfluence.dataflow.layout import VIEWS, view_key
    from rayinfluence.storage.digest import digest

    manifest = next(iter(results.values())).manifest
    told = (manifest.get("without") or {}).get("condition")
    parts = [manifest["fingerprint"], list(results), told]
    if layers := manifest.get("layers"):
        parts.append(layers["blocks"])
    name = digest(parts)
    _write(store / VIEWS, results, f"{name}.html", name, context)
    return view_key(name)


def _write(
    store: Store, results: dict[str, Results], name: str, folder: str, context: int | None
) -> set[str]:
    from rayinfluence.report import render_report

    written = set()
    for key, page in render_report(results, name, folder, context=context):
        store.write(key, page.encode())
        written.add(key)
    return written


def say_report(store: Store, error: bool = False, key: str | None = None) -> None:
    """Say where the page is; that of all current results where no key is given."""
    from rayinfluence.dataflow.layout import REPORT

    say(f"report: {store.url}/{key or REPORT}", error=error)
