"""``rayinfluence report``: results on the terminal, as JSON, as CSV, and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rayinfluence.cli.comparing import (
    compared,
    comparison_of,
    fingerprint_of,
    sides_of,
    versioned,
)
from rayinfluence.cli.excluding import without_some
from rayinfluence.cli.hits import sides
from rayinfluence.cli.opening import say_incomplete
from rayinfluence.cli.options import AsJson, EndpointUrl, Settings
from rayinfluence.cli.saying import say
from rayinfluence.cli.showing import all_results, say_report, write_report, write_view
from rayinfluence.display import Part, Shown, show
from rayinfluence.errors import ConfigError, StorageError
from rayinfluence.text import visible_line

if TYPE_CHECKING:
    from rayinfluence.report import Overview
    from rayinfluence.report.compare import Comparison
    from rayinfluence.storage.results import Results
    from rayinfluence.storage.store import Store

#: Survivors of a query and side where nothing says how many.
_TOP = 5


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="A run directory, or the run's YAML file; RUN@FINGERPRINT for results that are "
            "not the current ones. Several are compared with the first.",
        ),
    ],
    query: Annotated[
        list[str] | None,
        typer.Option(
            help="The id of a query whose survivors are printed; repeatable. Several of one run "
            "are compared with the first."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="The run's first by default; several are compared with the first."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            help="Survivors per query and side: 5, in a comparison 10, and all of them in CSV.",
            min=1,
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help="Show what is left without the sequences of which it is true, such as "
            "\"source = 'x'\": a condition on metadata, as corpus.exclude has them.",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="A-B",
            help="Rank survivors again by the scores of some blocks of the model: A-B, lower, "
            "middle or upper (thirds). A scan by those alone may find others.",
        ),
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Write survivors, or effects of groups, to a CSV file; '-' prints."
        ),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Write the HTML page though it is there and current.")
    ] = False,
    context: Annotated[
        int | None,
        typer.Option(
            help="Characters of its document that the page shows on either side of a hit, if the "
            "run kept them; 0 shows none. The page is written.",
            min=0,
        ),
    ] = None,
    as_json: AsJson = False,
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Show the results of a run: all queries at a glance, or the survivors of some.

    Of several runs, methods or queries: which hits they have in common.
    """
    from rayinfluence.corpus.predicate import Predicate
    from rayinfluence.dataflow.places import run_place

    if csv == "-" and as_json:
        raise ConfigError("--csv - and --json are both for standard output: name a file.")
    methods, asked = list(dict.fromkeys(method or ())), list(dict.fromkeys(query or ()))
    is_compared = len(runs) > 1 or len(methods) > 1
    if csv is not None and is_compared:
        raise ConfigError("--csv: it has the survivors of one run by one method; name one.")
    condition = None if exclude is None else Predicate(exclude, "--exclude")
    found = [versioned(one) for one in runs]
    run_places = [run_place(place, endpoint_url, settings or ()) for place, _ in found]
    stores = [one.store for one in run_places]
    versions = [
        fingerprint_of(store, version) for store, (_, version) in zip(stores, found, strict=True)
    ]
    of_runs = [all_results(store, one) for store, one in zip(stores, versions, strict=True)]
    if condition is not None:
        of_runs = [
            without_some(by_method, condition, place.corpus)
            for by_method, place in zip(of_runs, run_places, strict=True)
        ]
    if layers is not None:
        from rayinfluence.analysis.restricted import restricted_to

        of_runs = [restricted_to(by_method, layers, methods) for by_method in of_runs]
    if is_compared:
        sides_there = sides_of(runs, of_runs, methods)
        _refuse_unknown(sides_there[0].results, asked)
        _show_comparison(stores[0], compared(sides_there, asked, top), as_json)
        for store, by_method in zip(stores, of_runs, strict=True):
            _warn_incomplete(store, next(iter(by_method.values())))
        return
    [store], [results] = stores, of_runs
    from rayinfluence.report import Overview, hits, of_all

    chosen = _chosen(results, next(iter(methods), None), asked)
    address = _page(store, results, any((exclude, layers, versions[0])), page, context)
    if csv is not None:
        _write_csv(csv, chosen, results if not methods else {chosen.method: chosen}, asked, top)
    if csv != "-":
        n_shown = top or _TOP
        overview = Overview.of(chosen)
        values = values_of(store, chosen, overview, sides(chosen, asked, n_shown), address)
        parts = (
            [*hits(chosen, Console().width, n_shown, asked, results.values()), *of_all(results)]
            if asked
            else glance(results, chosen, overview, n_shown)
        )
        for view in ("layers", "without"):
            if told := chosen.manifest.get(view):
                parts = [Text(visible_line(told["sentence"]), "yellow"), "", *parts]
        if len(asked) > 1:
            comparison = compared(sides_of(runs, of_runs, [chosen.method]), asked, top)
            more, values["comparison"] = comparison_of(store, comparison)
            parts += ["", *more]
        show(Shown(parts, values), as_json)
        if address is not None:
            say_report(store, error=as_json, key=address)
    _warn_incomplete(store, chosen)


def _page(
    store: Store, results: dict[str, Results], is_view: bool, page: bool, context: int | None
) -> str | None:
    """The key of the page, which is written where that is needed; None where it cannot be.

    Results may be read by who may not write beside them. That is an error where the page itself is
    asked for.

    Args:
        store: the run directory.
        results: by method.
        is_view: whether they are other than the current ones.
        page: whether the page is written though it is there and current.
        context: characters around a hit, where they are named.
    """
    from rayinfluence.dataflow.layout import REPORT

    try:
        if is_view:
            return write_view(store, results, context)
        if page or context is not None or not is_current(store):
            write_report(store, results, context)
    except StorageError as error:
        if page or context is not None:
            raise
        say(f"no page: {error}", error=True)
        return None
    return REPORT


def _show_comparison(store: Store, comparison: Comparison, as_json: bool) -> None:
    """Print what a comparison says."""
    parts, values = comparison_of(store, comparison)
    show(Shown(parts, values), as_json)


def _warn_incomplete(store: Store, results: Results) -> None:
    """Say which splits are missing."""
    if not results.complete:
        say_incomplete(results.manifest["set_aside"])


def _chosen(results: Mapping[str, Results], method: str | None, query: Sequence[str]) -> Results:
    """The results that are shown, which have all queries that are asked for."""
    name = method or next(iter(results))
    if name not in results:
        raise ConfigError(f"--method {name}: the results are by {', '.join(results)}.")
    _refuse_unknown(results[name], query)
    return results[name]


def _refuse_unknown(results: Results, query: Sequence[str]) -> None:
    there = results.queries
    for one in query:
        if one not in there:
            raise ConfigError(
                f"--query {one}: the results by {results.method} have {len(there):,} queries, such "
                f"as {', '.join(list(there)[:3])}; `rayinfluence report RUN` lists them."
            )


def is_current(store: Store) -> bool:
    """Whether there is a page, and it is no older than what it shows, as far as is known."""
    from rayinfluence.dataflow.layout import REPORT
    from rayinfluence.storage.results import MANIFEST, VALUED

    times = {
        key: listed.modified
        for key in (MANIFEST, VALUED, REPORT)
        if (listed := store.list(key).get(key)) is not None and listed.modified is not None
    }
    return {MANIFEST, REPORT} <= times.keys() and max(times.values()) == times[REPORT]


def glance(
    results: Mapping[str, Results], chosen: Results, overview: Overview, n_shown: int = _TOP
) -> list[Part]:
    """All queries by one of the methods, or the survivors of the only one, and what holds for all.

    Args:
        results: of a run, by method.
        chosen: whose scores are shown.
        overview: of those.
        n_shown: survivors of the only query, of each direction.
    """
    from rayinfluence.report import effect_parts, hits, of_all, overview_parts

    only, of_groups = len(chosen.queries) == 1, chosen.meaning.of_groups
    parts = (
        hits(chosen, Console().width, n_shown, others=results.values())
        if only
        else effect_parts(chosen)
        if of_groups
        else overview_parts(overview, chosen.meaning)
    )
    parts += of_all(results)
    if others := [name for name in results if name != chosen.method]:
        parts.append(f"also by {', '.join(others)}: `rayinfluence report RUN --method NAME`")
    if not only:
        what = "effects on" if of_groups else "sequences of"
        parts.append(f"the {what} a query: `rayinfluence report RUN --query ID`")
    return parts


def values_of(
    store: Store,
    chosen: Results,
    overview: Overview,
    some: Mapping[str, Any],
    page: str | None,
) -> dict[str, Any]:
    """What programs read of results.

    Args:
        store: the run directory.
        chosen: the results by one method.
        overview: of those.
        some: survivors of the queries that were asked for, by their ids.
        page: the key of the page; None where there is none.
    """
    manifest = chosen.manifest
    return {
        "run": store.url,
        "results": manifest["fingerprint"],
        "complete": chosen.complete,
        "set_aside": list(manifest.get("set_aside") or ()),
        "warnings": chosen.warnings,
        "methods": list(manifest["methods"]),
        "page": None if page is None else f"{store.url}/{page}",
        "without": manifest.get("without"),
        "layers": manifest.get("layers"),
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
    from rayinfluence.report import effects_csv, survivors_csv
    from rayinfluence.storage.store import Store

    queries = asked or list(dict.fromkeys(q for one in results.values() for q in one.queries))
    of_groups = chosen.meaning.of_groups
    text = effects_csv(chosen, queries) if of_groups else survivors_csv(results, queries, top)
    if path == "-":
        typer.echo(text.encode(), nl=False)  # in UTF-8, as the file is
        return
    before, slash, name = path.rpartition("/")
    if not name or Path(path).is_dir():
        raise ConfigError(f"--csv {path}: it is a folder; name a file.")
    Store(f"{before}{slash}" or ".").write(name, text.encode())
    what = "effects of groups" if of_groups else "survivors"
    say(f"{path}: {text.count(chr(13)) - 1:,} {what}", error=True)
