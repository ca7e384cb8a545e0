"""``rayinfluence report``: results on the terminal, as JSON, as CSV, and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rayinfluence.cli.hits import sides
from rayinfluence.cli.opening import say_incomplete
from rayinfluence.cli.options import AsJson, EndpointUrl, RunPath, Settings
from rayinfluence.cli.saying import say
from rayinfluence.cli.showing import all_results, say_report, write_report
from rayinfluence.display import Part, Shown, show
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.report import Overview
    from rayinfluence.storage.results import Results
    from rayinfluence.storage.store import Store

#: Survivors of a query and side where nothing says how many.
_TOP = 5


def report(
    run_directory: RunPath,
    query: Annotated[
        list[str] | None,
        typer.Option(help="The id of a query whose survivors are printed; repeatable."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="The run's first by default.")] = None,
    top: Annotated[
        int | None,
        typer.Option(help="Survivors per query and side: 5, and all of them in CSV.", min=1),
    ] = None,
    csv: Annotated[
        str | None, typer.Option(metavar="PATH", help="Write survivors to a CSV file; '-' prints.")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Write the HTML page though it is there and current.")
    ] = False,
    as_json: AsJson = False,
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Show the results of a run: all queries at a glance, or the survivors of some."""
    from rayinfluence.dataflow.places import run_place

    if csv == "-" and as_json:
        raise ConfigError("--csv - and --json are both for standard output: name a file.")
    store = run_place(run_directory, endpoint_url, settings or ()).store
    from rayinfluence.report import Overview, hits, of_all

    results = all_results(store)
    chosen = _chosen(results, method, query)
    if page or not is_current(store):
        write_report(store, results)
    asked = list(query or ())
    if csv is not None:
        _write_csv(csv, chosen, results if method is None else {method: chosen}, asked, top)
    if csv != "-":
        n_shown = top or _TOP
        overview = Overview.of(chosen)
        values = values_of(store, chosen, overview, sides(chosen, asked, n_shown))
        parts = (
            [*hits(chosen, Console().width, n_shown, asked, results.values()), *of_all(results)]
            if asked
            else glance(results, chosen, overview)
        )
        show(Shown(parts, values), as_json)
        say_report(store, error=as_json)
    if not chosen.complete:
        say_incomplete(chosen.manifest["set_aside"])


def _chosen(
    results: Mapping[str, Results], method: str | None, query: Sequence[str] | None
) -> Results:
    """The results that are shown, which have all queries that are asked for."""
    name = method or next(iter(results))
    if name not in results:
        raise ConfigError(f"--method {name}: the results are by {', '.join(results)}.")
    there = results[name].queries
    for one in query or ():
        if one not in there:
            raise ConfigError(
                f"--query {one}: the results by {name} have {len(there):,} queries, such as "
                f"{', '.join(list(there)[:3])}; `rayinfluence report` lists them."
            )
    return results[name]


def is_current(store: Store) -> bool:
    """Whether there is a page, and it is no older than the results, as far as is known."""
    from rayinfluence.dataflow.layout import REPORT
    from rayinfluence.storage.results import MANIFEST

    times = [
        listed.modified
        for key in (MANIFEST, REPORT)
        if (listed := store.list(key).get(key)) is not None and listed.modified is not None
    ]
    return len(times) == 2 and times[0] <= times[1]


def glance(results: Mapping[str, Results], chosen: Results, overview: Overview) -> list[Part]:
    """All queries by one of the methods, or the survivors of the only one, and what holds for all.

    Args:
        results: of a run, by method.
        chosen: whose scores are shown.
        overview: of those.
    """
    from rayinfluence.report import hits, of_all, overview_parts

    only = len(chosen.queries) == 1
    parts = (
        hits(chosen, Console().width, _TOP, others=results.values())
        if only
        else overview_parts(overview, chosen.meaning)
    )
    parts += of_all(results)
    if others := [name for name in results if name != chosen.method]:
        parts.append(f"also by {', '.join(others)}: rayinfluence report --method shows them")
    if not only:
        parts.append("the sequences of a query: rayinfluence report --query ID")
    return parts


def values_of(
    store: Store, chosen: Results, overview: Overview, some: Mapping[str, Any]
) -> dict[str, Any]:
    """What programs read of results.

    Args:
        store: the run directory.
        chosen: the results by one method.
        overview: of those.
        some: survivors of the queries that were asked for, by their ids.
    """
    from rayinfluence.dataflow.layout import REPORT

    manifest = chosen.manifest
    return {
        "run": store.url,
        "results": manifest["fingerprint"],
        "complete": chosen.complete,
        "set_aside": list(manifest.get("set_aside") or ()),
        "warnings": chosen.warnings,
        "methods": list(manifest["methods"]),
        "page": f"{store.url}/{REPORT}",
        **overview.to_json(),
        "survivors": some,
    }


def _write_csv(
    path: str,
    chosen: Results,
    results: Mapping[str, Results],
    asked: Sequence[str],
    top: int | None,
) -> None:
    """Survivors of all methods that are asked for, of the queries that are, or of all."""
    from rayinfluence.report import survivors_csv
    from rayinfluence.storage.store import Store

    queries = asked or list(dict.fromkeys(q for one in results.values() for q in one.queries))
    text = survivors_csv(results, queries, top)
    if path == "-":
        typer.echo(text, nl=False)
        return
    before, slash, name = path.rpartition("/")
    if not name:
        raise ConfigError(f"--csv {path}: name a file.")
    Store(f"{before}{slash}" or ".").write(name, text.encode())
    say(f"{path}: {text.count(chr(13)) - 1:,} survivors", error=True)
