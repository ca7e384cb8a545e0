"""`rayinfluence plot`: pictures of results as files, for papers."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from rayinfluence.addresses import why_no_address
from rayinfluence.cli.options import EndpointUrl, RunPath, Settings
from rayinfluence.cli.saying import say
from rayinfluence.errors import ConfigError, InputError

_KINDS = ("tail", "concentration", "layers", "groups", "tokens", "agreement", "rescoring")
#: Hits of each direction that pictures show; as many as the page shows of few queries.
_SHOWN = 20
#: Of a query's id, what stands in the name of a file.
_NAME = 40


def plot(
    run_directory: RunPath,
    kind: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(_KINDS)}; repeatable, all by default.")
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="The id of one that is drawn, not all; repeatable."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="The run's first by default.")] = None,
    out: Annotated[str, typer.Option(help="A folder; may be s3://.")] = "plots",
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Draw pictures of results as PNG and SVG, each with its data as CSV and JSON."""
    kinds = list(dict.fromkeys(kind or _KINDS))
    if unknown := [one for one in kinds if one not in _KINDS]:
        raise ConfigError(f"--kind {unknown[0]}: the kinds of pictures are {', '.join(_KINDS)}.")
    if why := why_no_address(out):
        raise ConfigError(f"--out: {why}")
    from rayinfluence.report.pictures.paper import draw_files, refuse_no_matplotlib

    refuse_no_matplotlib()
    from rayinfluence.cli.showing import all_results
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.report.pictures import Seen, pictures_of
    from rayinfluence.report.pictures.data import data_files

    run = run_place(run_directory, endpoint_url, settings or ())
    folder = run.beside(out)
    by_method = all_results(run.store)
    if method is not None and method not in by_method:
        raise ConfigError(f"--method {method}: the run has {', '.join(by_method)}.")
    results = by_method[method or next(iter(by_method))]
    numbers = {query_id: number for number, query_id in enumerate(results.queries, start=1)}
    if missing := [one for one in query or () if one not in numbers]:
        raise InputError(
            f"--query {missing[0]}: {results.method} was not asked that; it was asked "
            f"{len(numbers)}, such as {next(iter(numbers), 'none')}."
        )
    asked = list(dict.fromkeys(query or numbers))
    results.keep(_SHOWN, asked)
    lacking = dict.fromkeys(kinds, 0)
    files = boxes = 0
    for query_id in asked:
        seen = Seen.of(results, query_id, _SHOWN)
        about = {
            "query_id": query_id,
            "method": results.method,
            "results": str(results.manifest.get("fingerprint")),
        }
        for one in kinds:
            figures = pictures_of(one, seen, by_method)
            lacking[one] += not figures
            names = [figure.name for figure in figures]
            for place, figure in enumerate(figures):
                several = names.count(figure.name) > 1
                which = f"-{names[: place + 1].count(figure.name)}" if several else ""
                name = (
                    f"{figure.name}{which}-{_called(numbers[query_id], query_id)}-{results.method}"
                )
                drawn = draw_files(figure)
                boxes += drawn.has_boxes
                for ending, body in (drawn.files | data_files(figure, about)).items():
                    folder.write(f"{name}.{ending}", body)
                files += 1
                say(f"{name}: {figure.title}")
    for one, n in lacking.items():
        if n:
            say(f"{one}: nothing to draw for {n} of {len(asked)} queries. {_WHY[one]}", error=True)
    if boxes:
        say(
            f"{boxes} pictures have letters that matplotlib's font lacks: they are boxes in the "
            "PNG, and text in the SVG",
            error=True,
        )
    if not files:
        raise InputError(f"plot: the results have nothing to draw of {', '.join(kinds)}.")
    say(f"{files} pictures in {folder.url}, each as .png, .svg, .csv and .json")


#: Why a query has no picture of a kind.
_WHY = {
    "tail": "No score of theirs is other than zero.",
    "concentration": "No score of theirs is positive.",
    "layers": "The method has no scores by layer, or found nothing.",
    "groups": "`scan.group_by` names keys; one with a single value is not drawn, nor are groups "
    "that were left out, of which `report` has tables.",
    "tokens": "`scan.token_scores` is 0, or nothing was found.",
    "agreement": "`scan.methods` has no other method that found something.",
    "rescoring": "Nothing was found.",
}


def _called(number: int, query_id: str) -> str:
    """A query in the name of a file: its number, and of its id what is safe there."""
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", query_id)[:_NAME].strip("-.")
    return f"{number}-{words}" if words else str(number)
