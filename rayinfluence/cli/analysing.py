"""`rayinfluence analyse`: what a run says of findings, from its results alone."""

from __future__ import annotations

from typing import Annotated

import typer

from rayinfluence.addresses import expanded, why_no_address
from rayinfluence.cli.options import AsJson, EndpointUrl, RunPath, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.display.as_json import json_text
from rayinfluence.errors import ConfigError

_KINDS = ("tails", "layers")


def analyse(
    run_directory: RunPath,
    what: Annotated[str, typer.Option(help=f"{' or '.join(_KINDS)}.")],
    method: Annotated[str | None, typer.Option(help="The run's first by default.")] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Of layers: a metadata key of queries, for classes."),
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(
            help="Log-probability per token, in nats, from which on the model knows a query: "
            "-2.30 by default, a probability of 0.1.",
            max=0.0,
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="A folder for a page and its JSON; may be s3://.")
    ] = None,
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a run's influences have power-law tails, and at which depth they come about."""
    if what not in _KINDS:
        raise ConfigError(f"--what {what}: it is {' or '.join(_KINDS)}.")
    if by is not None and what != "layers":
        raise ConfigError("--by: classes of queries are of --what layers.")
    if out is not None and (why := why_no_address(out)):
        raise ConfigError(f"--out: {why}")
    from rayinfluence.analysis import analyse_layers, analyse_tails
    from rayinfluence.analysis.asked import LEAST
    from rayinfluence.cli.showing import all_results
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.report.analysed import analysis_page, analysis_parts
    from rayinfluence.storage.store import Store

    by_method = all_results(run_place(run_directory, endpoint_url, settings or ()).store)
    if method is not None and method not in by_method:
        raise ConfigError(f"--method {method}: the run has {', '.join(by_method)}.")
    results = by_method[method or next(iter(by_method))]
    nats = LEAST if least is None else least
    found = (
        analyse_tails(results, by_method, nats)
        if what == "tails"
        else analyse_layers(results, by, nats)
    )
    page = None
    if out is not None:
        folder = Store(expanded(out))
        folder.write(f"{what}.json", json_text(found.to_json()).encode())
        folder.write(f"{what}.html", analysis_page(found).encode())
        page = f"{folder.url}/{what}.html"
    show(Shown(analysis_parts(found), {**found.to_json(), "page": page}), as_json)
    if page is not None:
        say(f"page: {page}", error=as_json)
