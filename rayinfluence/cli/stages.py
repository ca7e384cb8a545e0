"""Commands that do a run, or a stage of one: tokenize, fit, scan, run, plan, submit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayinfluence.cli.forecast import planned_parts
from rayinfluence.cli.opening import configured, end_incomplete, opened
from rayinfluence.cli.options import (
    AsJson,
    ConfigPath,
    NewRun,
    Quiet,
    RunnerName,
    Settings,
    Strict,
)
from rayinfluence.cli.reporting import glance, values_of
from rayinfluence.cli.saying import say
from rayinfluence.cli.showing import say_report, write_report
from rayinfluence.dataflow.stage_names import RESULTS
from rayinfluence.display import Shown, show

if TYPE_CHECKING:
    from rayinfluence.dataflow.run import Run
    from rayinfluence.storage.results import Results


def tokenize(
    config: ConfigPath,
    settings: Settings = None,
    runner: RunnerName = None,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Documents -> sequences in Parquet shards."""
    with opened(configured(config, runner, strict, settings), quiet=quiet) as run:
        corpus = run.tokenize()
        corpus.check(None, None)  # what was there before may have been lost since
        run.progress.note(f"{corpus.size} in {corpus.store.url}{corpus.manifest.left_out_rows}")


def fit(
    config: ConfigPath,
    settings: Settings = None,
    runner: RunnerName = None,
    new_run: NewRun = False,
    quiet: Quiet = False,
) -> None:
    """Fit the factors of the methods on the corpus (after tokenising what is not tokenised yet)."""
    with opened(configured(config, runner, settings=settings), new_run, quiet=quiet) as run:
        run.begin()
        run.tokenize()
        for factors in run.fit_all().values() or [run.fit()]:
            run.progress.note(f"factors in {factors.store.url}")


def scan(
    config: ConfigPath,
    settings: Settings = None,
    runner: RunnerName = None,
    new_run: NewRun = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score the corpus for every query (after tokenising and fitting) and write the results."""
    with opened(configured(config, runner, settings=settings), new_run, True, quiet) as run:
        run.begin(needs_queries=True)
        run.tokenize()
        results = run.scan()
        run.progress.note(f"results in {run.store.url}/{RESULTS}")
    if as_json:
        _show(run, results, as_json, None)
    end_incomplete(run)


def run(
    config: ConfigPath,
    settings: Settings = None,
    runner: RunnerName = None,
    new_run: NewRun = False,
    strict: Strict = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Do all stages and the report, and skip what is done."""
    from rayinfluence.dataflow.layout import REPORT

    wanted = configured(config, runner, strict, settings)
    with opened(wanted, new_run, needs_queries=True, quiet=quiet) as opened_run:
        results = opened_run.all()
        write_report(opened_run.store, results)
    _show(opened_run, results, as_json, REPORT)
    say_report(opened_run.store, error=as_json)
    end_incomplete(opened_run)


def _show(run: Run, results: dict[str, Results], as_json: bool, page: str | None) -> None:
    """All queries at a glance, by the first method; and the key of the page, if one is written."""
    from rayinfluence.report import Overview

    first = next(iter(results.values()))
    overview = Overview.of(first)
    values = values_of(run.store, first, overview, {}, page)
    show(Shown(glance(results, first, overview), values), as_json)


def submit(
    config: ConfigPath,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The address of the dashboard."),
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
    settings: Settings = None,
) -> None:
    """Submit a run to a Ray cluster as a job, or join it if it was submitted before."""
    from rayinfluence.submit import submit as send

    chosen: dict[str, Any] = {"follow": follow, "again": again, "new_run": new_run}
    raise typer.Exit(send(config, address, **chosen, settings=settings or (), say=say))


def plan(
    config: ConfigPath,
    price: Annotated[
        float, typer.Option(help="What a replica's machine costs for an hour, in any currency.")
    ] = 0.0,
    actors: Annotated[int | None, typer.Option(help="Replicas; the config's by default.")] = None,
    settings: Settings = None,
    runner: RunnerName = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score a few splits and say what the whole run will take, after tokenising the documents."""
    with opened(configured(config, runner, settings=settings), False, True, quiet) as run:
        planned = run.plan(actors)
    from rayinfluence.dataflow.layout import FORECAST

    run.store.write(FORECAST, json.dumps(planned.to_json(), indent=1).encode())
    values = {**planned.to_json(), "price": planned.price(price)}
    show(Shown(planned_parts(planned, run.config, price), values), as_json)
