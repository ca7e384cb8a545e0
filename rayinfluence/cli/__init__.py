"""The command line: parse, call, print.

Exit codes are in rayinfluence/errors.py and in the README.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayinfluence import __version__
from rayinfluence.addresses import hub_address
from rayinfluence.cli.ask import ask
from rayinfluence.cli.corpus import app as corpus_app
from rayinfluence.cli.opening import RunnerName
from rayinfluence.cli.opening import configured as _configured
from rayinfluence.cli.opening import end_incomplete as _end_incomplete
from rayinfluence.cli.opening import opened as _opened
from rayinfluence.cli.opening import say_incomplete as _say_incomplete
from rayinfluence.cli.plot import plot
from rayinfluence.cli.saying import say as _say
from rayinfluence.cli.showing import all_results as _all_results
from rayinfluence.cli.showing import say_report as _say_report
from rayinfluence.cli.showing import show as _show
from rayinfluence.cli.showing import write_report as _write_report
from rayinfluence.dataflow.runners.memory import prepare_process
from rayinfluence.dataflow.stage_names import RESULTS, STAGES
from rayinfluence.errors import (
    ConfigError,
    IncompleteResultsWarning,
    RayInfluenceError,
    StageError,
)
from rayinfluence.text import in_bytes, visible_line

app = typer.Typer(
    name="rayinfluence",
    help="Which training sequences made the model say this? EK-FAC influence functions on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(corpus_app)
app.command()(ask)
app.command()(plot)

#: What `clean` takes.
_STAGES = " or ".join((", ".join([*STAGES][:-1]), [*STAGES][-1]))
#: Of a run that is not done, a silence as long as this is said.
_SILENCE_SECONDS = 60
#: The exit code that typer gives an interrupt from the keyboard.
_INTERRUPTED = 130

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="The run's YAML file, or its run directory.")
]
RunPath = Annotated[
    str, typer.Argument(metavar="RUN", help="A run directory, or the run's YAML file.")
]
NewRun = Annotated[
    bool,
    typer.Option("--new-run", help="Begin anew beside what was done with other settings."),
]

Strict = Annotated[bool, typer.Option("--strict", help="End at a bad row or file of documents.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of ours are one sentence and their own exit code."""
    prepare_process()
    try:
        with warnings.catch_warnings():
            # Commands say so in a line of their own, and with their exit code.
            warnings.simplefilter("ignore", IncompleteResultsWarning)
            app(arguments)
    except RayInfluenceError as error:
        # Other libraries' messages, quoted in ours, come in several lines; a traceback stays whole.
        text = str(error) if isinstance(error, StageError) else " ".join(str(error).split())
        _say(f"error: {text}", error=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            _say("interrupted; run the same command again to go on.", error=True)
        raise


def job(stage: str) -> None:
    """What the scripts in jobs/ do: one stage, with the configuration given as ``--config``."""
    parser = argparse.ArgumentParser(description=f"rayinfluence {stage}, as a Ray job")
    parser.add_argument("--config", required=True, help="the run's YAML file")
    main([stage, parser.parse_args().config])


@app.command()
def tokenize(config: ConfigPath, runner: RunnerName = None, strict: Strict = False) -> None:
    """Documents -> sequences in Parquet shards."""
    with _opened(_configured(config, runner, strict)) as run:
        corpus = run.tokenize()
        run.progress.note(f"{corpus.size} in {corpus.store.url}{corpus.manifest.left_out_rows}")


@app.command()
def fit(config: ConfigPath, runner: RunnerName = None, new_run: NewRun = False) -> None:
    """Fit the factors of the methods on the corpus (after tokenising what is not tokenised yet)."""
    with _opened(_configured(config, runner), new_run) as run:
        run.begin()
        run.tokenize()
        for factors in run.fit_all().values() or [run.fit()]:
            run.progress.note(f"factors in {factors.store.url}")


@app.command()
def scan(config: ConfigPath, runner: RunnerName = None, new_run: NewRun = False) -> None:
    """Score the corpus for every query (after tokenising and fitting) and write the results."""
    with _opened(_configured(config, runner), new_run, needs_queries=True) as run:
        run.begin(needs_queries=True)
        run.tokenize()
        run.scan()
        run.progress.note(f"results in {run.store.url}/{RESULTS}")
    _end_incomplete(run)


@app.command()
def run(
    config: ConfigPath, runner: RunnerName = None, new_run: NewRun = False, strict: Strict = False
) -> None:
    """Do all stages and the report, and skip what is done."""
    with _opened(_configured(config, runner, strict), new_run, needs_queries=True) as opened:
        results = opened.all()
        _write_report(opened.store, results)
    _show(results, 3, queries=5)
    _say_report(opened.store)
    _end_incomplete(opened)


@app.command()
def submit(
    config: ConfigPath,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Of the cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    follow: Annotated[bool, typer.Option("--follow", help="Print what the job prints.")] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Submit though it has succeeded: documents or the model's files have changed. "
            "Queries and settings that have changed are another run by themselves.",
        ),
    ] = False,
    new_run: NewRun = False,
) -> None:
    """Submit a run to a Ray cluster as a job, or join it if it was submitted before."""
    from rayinfluence.submit import submit as send

    raise typer.Exit(send(config, address, follow=follow, again=again, new_run=new_run, say=_say))


@app.command()
def report(
    run_directory: RunPath,
    top: Annotated[int, typer.Option(help="Survivors shown per query and side.")] = 5,
    endpoint_url: Annotated[str | None, typer.Option(help="Of an S3-compatible server.")] = None,
) -> None:
    """Print the results of a run and write its HTML page."""
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.report import render_whole

    store = run_place(run_directory, endpoint_url).store
    results = _all_results(store)
    _write_report(store, results)
    _show(results, top)
    render_whole(results, Console())
    _say_report(store)
    first = next(iter(results.values()))
    if not first.complete:
        _say_incomplete(first.manifest["set_aside"])


@app.command()
def plan(
    config: ConfigPath,
    price: Annotated[float, typer.Option(help="Of one replica's machine for an hour.")] = 0.0,
    actors: Annotated[int | None, typer.Option(help="Replicas; the config's by default.")] = None,
    runner: RunnerName = None,
) -> None:
    """Score a few splits and say what the whole run will take, before it is paid for."""
    with _opened(_configured(config, runner), needs_queries=True) as run:
        planned = run.plan(actors)
    from rayinfluence.dataflow.layout import FORECAST
    from rayinfluence.methods.registry import TEXT_METHODS

    texts = [method for method in run.config.scan.methods if method in TEXT_METHODS]
    run.store.write(FORECAST, json.dumps(planned.to_json(), indent=1).encode())
    work, found = planned.work, planned.forecast
    console = Console(soft_wrap=True)
    per_gpu = "GPU-hours" if planned.device == "cuda" else "actor-hours"
    console.print(
        f"{planned.sequences:,} sequences, {work.tokens:,} tokens, {work.splits:,} splits; "
        f"{work.n_queries} queries; {planned.coverage:.0%} of the parameters are tracked\n"
        f"{found.hours:,.2f} hours on {planned.actors} actors, "
        f"{found.hours * planned.actors:,.2f} {per_gpu}"
        + (f", {planned.price(price):,.2f} at {price:g} per {per_gpu[:-1]}" if price else ""),
        highlight=False,
    )
    for title, rows in (
        ("stage", {name: f"{seconds:,.1f} s" for name, seconds in found.seconds.items()}),
        ("stored", {name: in_bytes(size) for name, size in found.stored.items()}),
        ("memory of a worker", {name: in_bytes(size) for name, size in found.memory.items()}),
    ):
        table = Table(title, "", box=None, pad_edge=False)
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)
    console.print(
        f"measured by one worker on {len(planned.rates.splits)} splits; the fit is counted with "
        "all of its sample, and stops earlier where it is sure enough"
        + (f"; {', '.join(texts)}: not in it, as texts need no model" if texts else ""),
        highlight=False,
    )


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model's folder, its hf:// address, or a run's YAML file."
        ),
    ],
    modules: Annotated[
        list[str] | None,
        typer.Option(help="mlp, attention or all, or a pattern of names; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what of a model is tracked, what that takes, and whether a run would refuse it."""
    from rayinfluence.dataflow.begin.early import refuse_no_folder
    from rayinfluence.dataflow.places import model_config

    config = model_config(model, modules or None)
    if hub_address(config.model) is None:
        refuse_no_folder("model", config.model)
    from rayinfluence.dataflow.plan.inspecting import inspect as look
    from rayinfluence.dataflow.plan.shown import show

    found = look(config, lambda text: _say(text, error=True))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        show(found, Console(soft_wrap=True))
    if found.refused is not None:
        raise found.refused


@app.command()
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
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Score texts that are in no corpus for the queries of a run that is done."""
    from rayinfluence.dataflow.begin.probes import Probing, probes_of, read_probes
    from rayinfluence.dataflow.places import run_config

    if not text and file is None:
        raise ConfigError("there is nothing to score: give --text or --file.")
    probes = probes_of(text) if text else []
    config, queries = run_config(run_directory), query or []
    if file is not None:
        more, named = read_probes(file, config)
        probes, queries = probes + more, queries or named
    probing = Probing.of(config, probes, queries, method, lambda text: _say(text, error=True))
    # After what is asked is known to be good: importing torch takes seconds.
    from rayinfluence.dataflow.probing import probe as score

    found = score(probing)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        from rayinfluence.report import render_probed

        render_probed(found, Console())
    if cut := [one.name for one in found.texts if one.n_cut]:
        _say(
            f"warning: {len(cut)} of {len(found.texts)} texts are longer than a sequence of the "
            f"run, and are scored as far as one goes, such as {cut[0]!r}",
            error=True,
        )
    if whole := found.counted_whole:
        _say(
            f"warning: training counted some tokens alone (objective.loss: {found.loss}), and all "
            f"tokens of {len(whole)} of {len(found.texts)} texts count, such as {whole[0]!r}: as "
            "a document they would have another score. Give them in a file as {prompt, completion}",
            error=True,
        )


@app.command()
def status(
    run_directory: RunPath,
    endpoint_url: Annotated[str | None, typer.Option(help="Of an S3-compatible server.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until it is done.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 10,
) -> None:
    """Say how far a run is, from its directory alone."""
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.dataflow.status import status as look

    before, moved = None, time.time()
    while True:
        place = run_place(run_directory, endpoint_url)
        found, now = look(place.store, place.corpus), time.time()
        table = Table("stage", "done", "", box=None, pad_edge=False)
        for stage in found.stages:
            total = "" if stage.total is None else f"/{stage.total}"
            table.add_row(stage.stage, f"{stage.done}{total}", Text(visible_line(stage.remark)))
        Console().print(table)
        done = found.is_done(now, place.stall_seconds)
        if not done and found.written is not None and now - found.written >= _SILENCE_SECONDS:
            _say(f"nothing has been written {_since(found.written, now)}")
        if done or not watch:
            break
        # Whose clock is another's may tell any time; that something has changed is sure.
        moved, before = (moved if found == before else now), found
        if now - max(moved, found.written or 0) >= place.stall_seconds:
            raise StageError(
                f"nothing has been written to {place.store.url} "
                + ("yet" if found.written is None else _since(found.written, now))
                + f", and for `runner.stall_seconds` ({place.stall_seconds:,g} s) it was watched "
                "in vain. Look whether the process or the Ray job still works on it, and watch it "
                "again if so; if it is gone, the same command goes on with the run."
            )
        time.sleep(every)


@app.command()
def clean(
    run_directory: RunPath,
    stage: Annotated[list[str], typer.Option(help=f"{_STAGES}; repeatable.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    endpoint_url: Annotated[str | None, typer.Option(help="Of an S3-compatible server.")] = None,
) -> None:
    """Delete what some stages wrote into a run directory."""
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.dataflow.status import clean as delete

    for name in stage:
        if name not in STAGES:
            raise ConfigError(f"--stage {name}: the stages are {', '.join(STAGES)}.")
    store = run_place(run_directory, endpoint_url).store
    if not yes:
        typer.confirm(visible_line(f"Delete {', '.join(stage)} from {store.url}?"), abort=True)
    typer.echo(f"{delete(store, stage)} objects deleted")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps everything.")] = Path(".demo"),
    runner: Annotated[str, typer.Option(help="ray or inline.")] = "ray",
) -> None:
    """Train a small model on Python's documentation with planted facts, and find the plants."""
    # Read when torch is first imported: threads that spin while they wait starve a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rayinfluence.addresses import expanded
    from rayinfluence.demo.run import run_demo

    outcome = run_demo(Path(expanded(str(folder))), runner)
    _write_report(outcome.store, outcome.results)
    _show(outcome.results, 3, queries=2)
    outcome.print(Console())
    _say_report(outcome.store)


@app.command(name="version", hidden=True)
def show_version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _version(is_asked: bool) -> None:
    if is_asked:
        show_version()
        raise typer.Exit


@app.callback()
def about(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Which training sequences made the model say this? EK-FAC influence functions on Ray."""


def _since(written: float, now: float) -> str:
    """When something was written last, and how long that is ago."""
    ago, unit = now - written, "s"
    for size, larger in ((60, "min"), (60, "h"), (24, "days")):
        if ago >= 2 * size:
            ago, unit = ago / size, larger
        else:
            break
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(written))
    return f"since {when} ({ago:.0f} {unit} ago)"
