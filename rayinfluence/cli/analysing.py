"""`rayinfluence analyse`: what runs say of findings, from their results and texts of no corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from rayinfluence.addresses import expanded, why_no_address
from rayinfluence.cli.options import AsJson, EndpointUrl, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.display.as_json import json_text
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.analysis import Scored
    from rayinfluence.report.analysed.grids import Found
    from rayinfluence.storage.results import Results

_KINDS = ("tails", "layers", "order", "scale")
_WORDS = f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]}"


def analyse(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN ...", help="A run directory or its YAML file; of scale two."),
    ],
    what: Annotated[str, typer.Option(help=f"{_WORDS}.")],
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
    """Say what influences are like: their tails, depth, order of words, and over sizes."""
    _refuse(what, runs, by, probes)
    if out is not None and (why := why_no_address(out)):
        raise ConfigError(f"--out: {why}")
    from rayinfluence.analysis.asked import LEAST
    from rayinfluence.report.analysed import analysis_page, analysis_parts
    from rayinfluence.storage.store import Store

    opened = _Opened(method, probes, settings or [], endpoint_url)
    found = _found(what, runs, opened, by, LEAST if least is None else least)
    page = None
    if out is not None:
        folder = Store(expanded(out))
        folder.write(f"{what}.json", json_text(found.to_json()).encode())
        folder.write(f"{what}.html", analysis_page(found).encode())
        page = f"{folder.url}/{what}.html"
    show(Shown(analysis_parts(found), {**found.to_json(), "page": page}), as_json)
    if page is not None:
        say(f"page: {page}", error=as_json)


def _refuse(what: str, runs: Sequence[str], by: str | None, probes: str | None) -> None:
    """Refuse what does not go together, before anything is read."""
    if what not in _KINDS:
        raise ConfigError(f"--what {what}: it is {_WORDS}.")
    if by is not None and what not in ("layers", "scale"):
        raise ConfigError("--by: keys of metadata are of --what layers and --what scale.")
    if probes is not None and what not in ("order", "scale"):
        raise ConfigError("--probes: sentences by parts are of --what order and --what scale.")
    if what == "order" and probes is None:
        raise ConfigError(
            "--what order: name the file of sentences by parts with --probes FILE. The demo writes "
            "one of its own facts, order.yaml."
        )
    if what == "scale" and len(runs) < 2:
        raise ConfigError("--what scale: name two runs or more, of models of different sizes.")
    if what != "scale" and len(runs) > 1:
        raise ConfigError(f"--what {what} is of one run, and {len(runs)} are named.")


@dataclass(frozen=True)
class _Opened:
    """How runs are read.

    Attributes:
        method: that is looked at; None is a run's first.
        probes: the file of sentences by parts, if there is one.
        settings: of a run's configuration, over its file's.
        endpoint_url: of a server.
    """

    method: str | None
    probes: str | None
    settings: Sequence[str]
    endpoint_url: str | None

    def results(self, run: str) -> tuple[Results, dict[str, Results]]:
        """Of the method, and of all methods by name."""
        from rayinfluence.cli.showing import all_results
        from rayinfluence.dataflow.places import run_place

        by_method = all_results(run_place(run, self.endpoint_url, self.settings).store)
        if self.method is not None and self.method not in by_method:
            raise ConfigError(f"--method {self.method}: the run has {', '.join(by_method)}.")
        return by_method[self.method or next(iter(by_method))], by_method

    def scored(self, run: str) -> list[Scored]:
        """The texts of the file, each scored with its query of the run."""
        from rayinfluence.analysis import Scored
        from rayinfluence.dataflow.begin.order import read_parts
        from rayinfluence.dataflow.begin.probes import Probing
        from rayinfluence.dataflow.places import run_config

        if self.probes is None:
            return []
        server = [] if self.endpoint_url is None else [f"storage.endpoint_url={self.endpoint_url}"]
        config = run_config(run, settings=[*self.settings, *server])
        parts = read_parts(self.probes, config)
        own = [one.query for one in parts]
        texts = [one.probe for one in parts]
        probing = Probing.of(config, texts, own, self.method, lambda text: say(text, error=True))
        # After what is asked is known to be good: importing torch takes seconds.
        from rayinfluence.dataflow.probing import probe_own

        seen, scores = probe_own(probing, own)
        if cut := [one.name for one in seen if one.n_cut]:
            say(
                f"warning: {len(cut)} of {len(seen)} texts are longer than a sequence of the run, "
                f"and are scored as far as one goes, such as {cut[0]!r}",
                error=True,
            )
        return [
            Scored(one.query, one.part, tuple(text.tokens), score)
            for one, text, score in zip(parts, seen, scores, strict=True)
        ]


def _found(what: str, runs: Sequence[str], opened: _Opened, by: str | None, least: float) -> Found:
    from rayinfluence.analysis import (
        Sized,
        analyse_layers,
        analyse_order,
        analyse_scale,
        analyse_tails,
    )

    if what == "scale":
        sized = []
        for run in runs:
            results, by_method = opened.results(run)
            sized.append(Sized(run, results, by_method.get("bm25"), opened.scored(run)))
        return analyse_scale(sized, by, least)
    [run] = runs
    results, by_method = opened.results(run)
    if what == "tails":
        return analyse_tails(results, by_method, least)
    if what == "layers":
        return analyse_layers(results, by, least)
    return analyse_order(results, opened.scored(run), least)
