"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from rayinfluence.display import json_alone


def _alone(context: typer.Context, is_asked: bool) -> bool:
    """Keep standard output for the object, if there is to be one."""
    if is_asked:
        context.with_resource(json_alone())
    return is_asked


ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="The run's YAML file, or its run directory.")
]
RunPath = Annotated[
    str, typer.Argument(metavar="RUN", help="A run directory, or the run's YAML file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of the configuration, such as scan.top=50, over the file's; repeatable.",
    ),
]
RunnerName = Annotated[
    str | None, typer.Option("--runner", help="ray or inline, instead of the config's.")
]
NewRun = Annotated[
    bool,
    typer.Option("--new-run", help="Begin anew beside what was done with other settings."),
]
Strict = Annotated[bool, typer.Option("--strict", help="End at a bad row or file of documents.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no progress: results, warnings and errors.")
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object; all else goes to standard error.",
        callback=_alone,
    ),
]
EndpointUrl = Annotated[
    str | None, typer.Option(help="The address of an S3-compatible server, instead of AWS.")
]
