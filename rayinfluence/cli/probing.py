"""``rayinfluence probe``: texts that are in no corpus."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from rayinfluence.cli.options import AsJson, RunPath, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.errors import ConfigError


def probe(
    run_directory: RunPath,
    text: Annotated[
        list[str] | None, typer.Option(help="A text that is scored; repeatable.")
    ] = None,
    file: Annotated[
        str | None, typer.Option(help="A YAML file with texts by partition; may be s3://.")
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="The id of one that texts are scored for, not all; repeatable."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="The run's first by default.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Score texts that are in no corpus for the queries of a run that is done."""
    from rayinfluence.dataflow.begin.probes import Probing, probes_of, read_probes
    from rayinfluence.dataflow.places import run_config

    if not text and file is None:
        raise ConfigError("there is nothing to score: give --text or --file.")
    probes = probes_of(text) if text else []
    config, queries = run_config(run_directory, settings=settings or ()), query or []
    if file is not None:
        more, named = read_probes(file, config)
        probes, queries = probes + more, queries or named
    probing = Probing.of(config, probes, queries, method, lambda text: say(text, error=True))
    # After what is asked is known to be good: importing torch takes seconds.
    from rayinfluence.dataflow.probing import probe as score
    from rayinfluence.report import probed_parts

    found = score(probing)
    show(Shown(probed_parts(found, Console().width), found.to_json()), as_json)
    if cut := [one.name for one in found.texts if one.n_cut]:
        say(
            f"warning: {len(cut)} of {len(found.texts)} texts are longer than a sequence of the "
            f"run, and are scored as far as one goes, such as {cut[0]!r}",
            error=True,
        )
    if whole := found.counted_whole:
        say(
            f"warning: training counted some tokens alone (objective.loss: {found.loss}), and all "
            f"tokens of {len(whole)} of {len(found.texts)} texts count, such as {whole[0]!r}: as "
            "a document they would have another score. Give them in a file as {prompt, completion}",
            error=True,
        )
