"""The command line: parse, call, print.

Exit codes are in rayinfluence/errors.py and in the README.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rayinfluence import __version__
from rayinfluence.cli.analysing import analyse
from rayinfluence.cli.ask import ask
from rayinfluence.cli.corpus import app as corpus_app
from rayinfluence.cli.evaluating import evaluate
from rayinfluence.cli.inspecting import inspect
from rayinfluence.cli.merging import merge
from rayinfluence.cli.patterns import patterns
from rayinfluence.cli.plot import plot
from rayinfluence.cli.probing import probe
from rayinfluence.cli.reporting import report
from rayinfluence.cli.reviewing import app as review_app
from rayinfluence.cli.saying import say
from rayinfluence.cli.showing import say_report, write_report
from rayinfluence.cli.stages import fit, plan, run, scan, submit, tokenize
from rayinfluence.cli.starting import init
from rayinfluence.cli.valuing import shapley
from rayinfluence.cli.watching import clean, status
from rayinfluence.dataflow.runners.memory import prepare_process
from rayinfluence.errors import IncompleteResultsWarning, RayInfluenceError, StageError

app = typer.Typer(
    name="rayinfluence",
    help="Which training sequences made the model say this? EK-FAC influence functions on Ray.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
#: As --help has them.
_COMMANDS: tuple[Callable[..., None], ...] = (
    *(init, run, report, plot, ask, probe, merge, tokenize, fit, scan),
    *(status, plan, inspect, patterns, submit, evaluate, shapley, analyse, clean),
)
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(corpus_app)
app.add_typer(review_app)

#: The exit code that typer gives an interrupt from the keyboard.
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of ours are one sentence and their own exit code."""
    prepare_process()
    for stream in (sys.stdout, sys.stderr):
        # Texts are of any script, and a pipe or an old terminal may have an encoding that is not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            # Commands say so in a line of their own, and with their exit code.
            warnings.simplefilter("ignore", IncompleteResultsWarning)
            app(arguments)
    except RayInfluenceError as error:
        # Other libraries' messages, quoted in ours, come in several lines; a traceback stays whole.
        text = str(error) if isinstance(error, StageError) else " ".join(str(error).split())
        say(f"error: {text}", error=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            say("interrupted; run the same command again to go on.", error=True)
        raise


def job(stage: str) -> None:
    """What the scripts in jobs/ do: one stage, with the configuration given as ``--config``."""
    parser = argparse.ArgumentParser(description=f"rayinfluence {stage}, as a Ray job")
    parser.add_argument("--config", required=True, help="the run's YAML file")
    main([stage, parser.parse_args().config])


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps everything.")] = Path(".demo"),
    runner: Annotated[str, typer.Option(help="ray or inline.")] = "ray",
    small: Annotated[
        bool,
        typer.Option(
            "--small",
            help="A tenth of the documents: its model is trained in seconds, and again for "
            "`evaluate` and `shapley` of its job.yaml in minutes.",
        ),
    ] = False,
) -> None:
    """Train a small model on Python's documentation with planted facts, and find the plants."""
    # Read when torch is first imported: threads that spin while they wait starve a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rayinfluence.addresses import expanded
    from rayinfluence.demo.run import SMALL, run_demo
    from rayinfluence.report import render

    outcome = run_demo(Path(expanded(str(folder))), runner, size=SMALL if small else None)
    write_report(outcome.store, outcome.results)
    first, console = outcome.results["ekfac"], Console()
    render(first, console, 3, list(first.queries)[:2])
    outcome.print(console)
    say_report(outcome.store)


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
