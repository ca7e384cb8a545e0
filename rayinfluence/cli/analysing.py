"""`rayinfluence analyse`: what runs say of findings, from their results and texts of no corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from rayinfluence.analysis.layers import Pairs
    from rayinfluence.config import RunConfig
    from rayinfluence.report.analysed.grids import Found
    from rayinfluence.storage.results import Results

_KINDS = ("tails", "layers", "copies", "order", "scale")
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
    """Say what influences are like: tails, depth, copies, order of words, and over sizes."""
    _refuse(what, runs, {"by": by, "probes": probes, "pairs": pairs})
    key, equals, value = (only or "").partition("=")
    if only is not None and not (key and equals):
        raise ConfigError(f"--only {only}: write KEY=VALUE, a metadata key of queries and a value.")
    if out is not None and (why := why_no_address(out)):
        raise ConfigError(f"--out: {why}")
    from rayinfluence.analysis.asked import LEAST
    from rayinfluence.report.analysed import analysis_page, analysis_parts
    from rayinfluence.storage.store import Store

    opened = _Opened(method, probes, (key, value) if only else None, settings or [], endpoint_url)
    found = _found(what, runs, opened, by, pairs, LEAST if least is None else least)
    page = None
    if out is not None:
        folder = Store(expanded(out))
        folder.write(f"{what}.json", json_text(found.to_json()).encode())
        folder.write(f"{what}.html", analysis_page(found).encode())
        page = f"{folder.url}/{what}.html"
    show(Shown(analysis_parts(found), {**found.to_json(), "page": page}), as_json)
    if page is not None:
        say(f"page: {page}", error=as_json)


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
        if options[name] is not None and what not in kinds:
            of = " and ".join(f"--what {kind}" for kind in kinds)
            raise ConfigError(f"--{name}: {told} are of {of}.")
    if what == "order" and options["probes"] is None:
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
        only: a key of queries' metadata and the value of those that are looked at alone.
        settings: of a run's configuration, over its file's.
        endpoint_url: of a server.
    """

    method: str | None
    probes: str | None
    only: tuple[str, str] | None
    settings: Sequence[str]
    endpoint_url: str | None

    def results(self, run: str) -> tuple[Results, dict[str, Results]]:
        """Of the method, and of all methods by name."""
        from rayinfluence.analysis.asked import only_of
        from rayinfluence.cli.showing import all_results
        from rayinfluence.dataflow.places import run_place

        by_method = all_results(run_place(run, self.endpoint_url, self.settings).store)
        if self.method is not None and self.method not in by_method:
            raise ConfigError(f"--method {self.method}: the run has {', '.join(by_method)}.")
        results = by_method[self.method or next(iter(by_method))]
        return results if self.only is None else only_of(results, *self.only), by_method

    def config(self, run: str) -> RunConfig:
        """Of the run, for what its model and its queries are asked."""
        from rayinfluence.dataflow.places import run_config

        server = [] if self.endpoint_url is None else [f"storage.endpoint_url={self.endpoint_url}"]
        return run_config(run, settings=[*self.settings, *server])

    def scored(self, run: str) -> list[Scored]:
        """The texts of the file, each scored with its query of the run."""
        from rayinfluence.analysis import Scored
        from rayinfluence.dataflow.begin.order import read_parts
        from rayinfluence.dataflow.begin.probes import Probing

        if self.probes is None:
            return []
        config = self.config(run)
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


def _found(
    what: str,
    runs: Sequence[str],
    opened: _Opened,
    by: str | None,
    pairs: int | None,
    least: float,
) -> Found:
    from rayinfluence.analysis import (
        Sized,
        analyse_copies,
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
    if what == "copies":
        return analyse_copies(results, least)
    if what == "layers":
        beside = None if pairs is None else _pairs(opened.config(run), results, least, pairs)
        return analyse_layers(results, by, least, beside)
    return analyse_order(results, opened.scored(run), least)


def _pairs(config: RunConfig, results: Results, least: float, n: int) -> Pairs:
    """Known queries with hits of others, by the run's own model."""
    from rayinfluence.analysis.asked import Gate
    from rayinfluence.analysis.pairs import drawn_hits, shuffled_pairs
    from rayinfluence.dataflow.begin.probes import Probing, probes_of

    if not results.meaning.has_layers:
        raise ConfigError(f"--pairs: {results.method} has no scores by layer; name another method.")
    texts = drawn_hits(results, least, n)
    known = Gate.of(results, least).known
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
