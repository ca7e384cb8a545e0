"""``rayinfluence ask``: one question of a run that is there, without a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rayinfluence.cli.hits import sides
from rayinfluence.cli.opening import configured, end_incomplete, opened
from rayinfluence.cli.options import AsJson, Quiet, RunnerName, RunPath, Settings
from rayinfluence.cli.showing import say_report, write_report
from rayinfluence.display import Shown, show
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.storage.results import Results

_OF_A_QUERY = ("query_id", "prompt", "completion", "log_probability")


def ask(
    run_directory: RunPath,
    prompt: Annotated[
        str, typer.Argument(help="Or, with --chat, what the user says, or messages as JSON.")
    ],
    completion: Annotated[
        str | None, typer.Argument(help="What is asked about; mostly it begins with a space.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Render it by the tokenizer's chat template.")
    ] = False,
    generate: Annotated[
        bool, typer.Option("--generate", help="Let the model answer, and ask about that.")
    ] = False,
    tokens: Annotated[
        int | None, typer.Option(help="Of the answer at most; 32 by default.", min=1)
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw the answer, not the likeliest tokens.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Of the draws; the run's by default.", min=0, max=2**63 - 1)
    ] = None,
    top: Annotated[int, typer.Option(help="Survivors shown per side.", min=1)] = 5,
    settings: Settings = None,
    runner: RunnerName = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Ask one question of a run that has its factors; from then on it is one of its queries."""
    from rayinfluence.corpus.query_forms import queries_of
    from rayinfluence.dataflow.begin.questions import question, refuse_unready

    _refuse_idle(generate, {"--tokens": tokens, "--sample": sample or None, "--seed": seed})
    if seed is not None and not sample:
        raise ConfigError("--seed is of what is drawn: add --sample, or leave it out.")
    row = question(prompt, completion, chat=chat, generate=generate)
    if not generate:
        queries_of(row, "the question")
    config = configured(run_directory, runner, settings=settings)
    refuse_unready(config)
    with opened(config, quiet=quiet) as run:
        from rayinfluence.dataflow.asking import Generating, answered
        from rayinfluence.dataflow.asking import ask as asked
        from rayinfluence.report import hits

        if generate:
            drawn_by = (config.seed if seed is None else seed) if sample else None
            row = answered(run, row, Generating(tokens or 32, drawn_by))
        found = asked(run, row)
        write_report(run.store, found.results)
    first = next(iter(found.results.values()))
    parts = hits(first, Console().width, top, [found.query_id], found.results.values())
    show(Shown(parts, _values(found.query_id, found.results, generate, top)), as_json)
    say_report(run.store, error=as_json)
    end_incomplete(run)


def _refuse_idle(generate: bool, given: Mapping[str, Any]) -> None:
    """Refuse what says how an answer is made where none is."""
    idle = [name for name, value in given.items() if value is not None]
    if idle and not generate:
        raise ConfigError(f"{idle[0]} is of an answer of the model's: add --generate.")


def _values(
    query_id: str, results: Mapping[str, Results], generated: bool, top: int
) -> dict[str, Any]:
    query = next(iter(results.values())).queries[query_id]
    return {
        **{key: query[key] for key in _OF_A_QUERY},
        "generated": generated,
        "methods": {
            method: sides(found, [query_id], top)[query_id]
            for method, found in results.items()
            if query_id in found.queries
        },
    }
