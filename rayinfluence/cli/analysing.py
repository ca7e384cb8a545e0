"""`rayinfluence analyse`: what a run says of findings, from its results alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rayinfluence.addresses import expanded, why_no_address
from rayinfluence.cli.options import AsJson, EndpointUrl, RunPath, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.display.as_json import json_text
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.analysis.layers import Pairs
    from rayinfluence.report.analysed.grids import Found
    from rayinfluence.storage.results import Results

_KINDS = ("tails", "layers", "copies")


def analyse(
    run_directory: RunPath,
    what: Annotated[str, typer.Option(help=f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]}.")],
    method: Annotated[str | None, typer.Option(help="The run's first by default.")] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Of layers: a metadata key of queries, for classes."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE", help="Of queries alone that have this in their metadata."
        ),
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(
            help="Log-probability per token, in nats, from which on the model knows a query: "
            "-2.30 by default, a probability of 0.1.",
            max=0.0,
        ),
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(
            help="Of layers: score queries with so many hits of others, as a control, by the "
            "run's model.",
            min=1,
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="A folder for a page and its JSON; may be s3://.")
    ] = None,
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run's influences are like: their tails, their depth, and copies in the corpus."""
    if what not in _KINDS:
        raise ConfigError(f"--what {what}: it is {', '.join(_KINDS[:-1])} or {_KINDS[-1]}.")
    if by is not None and what != "layers":
        raise ConfigError("--by: classes of queries are of --what layers.")
    if pairs is not None and what != "layers":
        raise ConfigError("--pairs: hits of other queries are a control of --what layers.")
    key, equals, value = (only or "").partition("=")
    if only is not None and not (key and equals):
        raise ConfigError(f"--only {only}: write KEY=VALUE, a metadata key of queries and a value.")
    if out is not None and (why := why_no_address(out)):
        raise ConfigError(f"--out: {why}")
    from rayinfluence.analysis import analyse_copies, analyse_layers, analyse_tails
    from rayinfluence.analysis.asked import LEAST, only_of
    from rayinfluence.cli.showing import all_results
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.report.analysed import analysis_page, analysis_parts
    from rayinfluence.storage.store import Store

    by_method = all_results(run_place(run_directory, endpoint_url, settings or ()).store)
    if method is not None and method not in by_method:
        raise ConfigError(f"--method {method}: the run has {', '.join(by_method)}.")
    results = by_method[method or next(iter(by_method))]
    if only is not None:
        results = only_of(results, key, value)
    nats = LEAST if least is None else least
    found: Found
    if what == "tails":
        found = analyse_tails(results, by_method, nats)
    elif what == "copies":
        found = analyse_copies(results, nats)
    else:
        beside = None if pairs is None else _pairs(run_directory, results, nats, pairs, settings)
        found = analyse_layers(results, by, nats, beside)
    page = None
    if out is not None:
        folder = Store(expanded(out))
        folder.write(f"{what}.json", json_text(found.to_json()).encode())
        folder.write(f"{what}.html", analysis_page(found).encode())
        page = f"{folder.url}/{what}.html"
    show(Shown(analysis_parts(found), {**found.to_json(), "page": page}), as_json)
    if page is not None:
        say(f"page: {page}", error=as_json)


def _pairs(place: str, results: Results, least: float, n: int, settings: list[str] | None) -> Pairs:
    """Known queries with hits of others, by the run's own model."""
    from rayinfluence.analysis.asked import Gate
    from rayinfluence.analysis.pairs import drawn_hits, shuffled_pairs
    from rayinfluence.dataflow.begin.probes import Probing, probes_of
    from rayinfluence.dataflow.places import run_config

    if not results.meaning.has_layers:
        raise ConfigError(f"--pairs: {results.method} has no scores by layer; name another method.")
    texts = drawn_hits(results, least, n)
    known = Gate.of(results, least).known
    config = run_config(place, settings=settings or ())
    probing = Probing.of(
        config,
        probes_of(list(texts.values())),
        known,
        results.method,
        lambda text: say(text, error=True),
    )
    from rayinfluence.dataflow.probing import probe

    found = probe(probing).scores
    return shuffled_pairs(
        results, list(texts), {one: [s.layer_scores for s in found[one]] for one in known}
    )
