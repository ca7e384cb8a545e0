"""A run as commands open it, and how they end where something is missing from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from rayinfluence.cli.saying import say
from rayinfluence.config import RunConfig
from rayinfluence.errors import INCOMPLETE

if TYPE_CHECKING:
    from rayinfluence.dataflow.run import Run


def configured(
    place: str, runner: str | None, strict: bool = False, settings: Sequence[str] | None = None
) -> RunConfig:
    """The configuration that a command is pointed at, with the runner that it was given."""
    from rayinfluence.dataflow.places import run_config

    config = run_config(place, strict, settings or ())
    if runner is None:
        return config
    values: dict[str, Any] = config.model_dump()
    values["runner"]["name"] = runner
    return RunConfig.parse(values, "--runner")


@contextmanager
def opened(
    config: RunConfig, new_run: bool = False, needs_queries: bool = False, quiet: bool = False
) -> Iterator[Run]:
    """A run whose inputs have been read; if it is to be quiet, it prints warnings alone."""
    from rayinfluence.dataflow.begin.early import Inputs

    def aside(text: str) -> None:
        if not quiet or text.startswith("warning: "):
            say(text, error=True)

    inputs = Inputs.of(config, aside, new_run)
    if needs_queries:
        _ = inputs.needed_queries
    # After what the configuration names is known to be good: importing torch takes seconds.
    from rayinfluence.dataflow.run import Run
    from rayinfluence.dataflow.stages.progress import ProgressLog

    with Run(config, ProgressLog(quiet=quiet), new_run=new_run, inputs=inputs) as run:
        yield run


def end_incomplete(run: Run) -> None:
    """Exit with a code of its own where splits are missing from the results."""
    if run.set_aside:
        say_incomplete([asdict(aside) for aside in run.set_aside])
        raise typer.Exit(INCOMPLETE)


def say_incomplete(aside: Sequence[Mapping[str, Any]]) -> None:
    """Say which splits are missing from results."""
    say(
        f"complete but for {len(aside)} splits, the first of them {aside[0]['name']}: "
        f"{aside[0]['reason'].rstrip('.')}. Put it right and run it again.",
        error=True,
    )
