"""`rayinfluence analyse`: what runs say of findings, from their results and texts of no corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from rayinfluence.addresses import why_no_address
from rayinfluence.cli.options import AsJson, EndpointUrl, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.display.as_json import json_text
from rayinfluence.errors import ConfigError

_ALL = "all"
_KINDS = ("tails", "layers", "copies", "order", "scale", _ALL)
_WORDS = f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]}"


def analyse(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN ...", help="A run directory or its YAML file; of scale two or more."
        ),
    ],
    what: Annotated[
        str, typer.Option(help=f"{_WORDS}, which is all that the run can be asked.")
    ] = _ALL,
    method: Annotated[str | None, typer.Option(help="The run's first by default.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="A metadata key: of layers, of queries for classes; of scale, that queries and "
            "their own sequences have the same value of.",
        ),
    ] = None,
    probes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Of order and scale: YAML of sentences by parts."),
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
    png: Annotated[
        bool, typer.Option("--png", help="With --out: its pictures as files, too (matplotlib).")
    ] = False,
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say what influences are like: tails, depth, copies, order of words, and over sizes."""
    _refuse(what, runs, {"by": by, "probes": probes, "pairs": pairs})
    key, equals, value = (only or "").partition("=")
    if only is not None and not (key and equals):
        raise ConfigError(f"--only {only}: write KEY=VALUE, a metadata key of queries and a value.")
    if out is not None and (why := why_no_address(out)):
        raise ConfigError(f"--out: {why}")
    if png:
        _refuse_no_pictures(out)
    from rayinfluence.analysis.asked import LEAST
    from rayinfluence.cli.asking_findings import Asked, Opened, found_of
    from rayinfluence.report.analysed import analysis_page, analysis_parts, figures
    from rayinfluence.report.pictures.paper import draw_files

    opened = Opened(method, probes, (key, value) if only else None, settings or [], endpoint_url)
    folder = None if out is None else opened.folder(runs[0], out)
    asked = Asked(what, by, pairs, LEAST if least is None else least)
    found = found_of(runs, opened, asked)
    page = None
    if folder is not None:
        name = "findings" if what == _ALL else what
        folder.write(f"{name}.json", json_text(found.to_json()).encode())
        folder.write(f"{name}.html", analysis_page(found).encode())
        if png:
            pictures = list(figures(found))
            for drawn in pictures:
                folder.write(f"{drawn.name}.png", draw_files(drawn).files["png"])
            if not pictures:
                say("--png: nothing that was asked has a picture, and none was written", error=True)
        page = f"{folder.url}/{name}.html"
    show(Shown(analysis_parts(found), {**found.to_json(), "page": page}), as_json)
    if page is not None:
        say(f"page: {page}", error=as_json)


def _refuse_no_pictures(out: str | None) -> None:
    from rayinfluence.report.pictures.paper import refuse_no_matplotlib

    if out is None:
        raise ConfigError("--png: pictures are files beside the page; name a folder with --out.")
    refuse_no_matplotlib()


#: Of which analyses options are, and what they say.
_OF = {
    "by": (("layers", "scale"), "keys of metadata"),
    "probes": (("order", "scale"), "sentences by parts"),
    "pairs": (("layers",), "hits of other queries"),
}


def _refuse(what: str, runs: Sequence[str], options: Mapping[str, object]) -> None:
    """Refuse what does not go together, before anything is read."""
    if what not in _KINDS:
        raise ConfigError(f"--what {what}: it is {_WORDS}.")
    for name, (kinds, told) in _OF.items():
        if options[name] is not None and what not in (*kinds, _ALL):
            of = " and ".join(f"--what {kind}" for kind in kinds)
            raise ConfigError(f"--{name}: {told} are of {of}.")
    if what == "order" and options["probes"] is None:
        raise ConfigError(
            "--what order: name the file of sentences by parts with --probes FILE. The demo writes "
            "one of its own facts, order.yaml."
        )
    if what == "scale" and len(runs) < 2:
        raise ConfigError("--what scale: name two runs or more, of models of different sizes.")
    if what not in ("scale", _ALL) and len(runs) > 1:
        raise ConfigError(f"--what {what} is of one run, and {len(runs)} are named.")
