"""``rayinfluence ask``: one question of a run that is there, without a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayinfluence.cli.opening import RunnerName, configured, end_incomplete, opened
from rayinfluence.cli.showing import say_report, show_queries, write_report
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.storage.results import Results, Survivor

#: What of a sequence is printed as JSON.
_OF_A_HIT = (
    "rank",
    "score",
    "delta_nats",
    "beyond_linear",
    "suspect",
    "sequence_id",
    "document_file",
    "document_id",
    "document_row",
    "char_start",
    "char_end",
    "text",
)
_OF_A_QUERY = ("query_id", "prompt", "completion", "log_probability")


def ask(
    run_directory: Annotated[
        str, typer.Argument(metavar="RUN", help="A run directory, or the run's YAML file.")
    ],
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
    runner: RunnerName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
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
    config = configured(run_directory, runner)
    refuse_unready(config)
    with opened(config) as run:
        from rayinfluence.dataflow.asking import Generating, answered
        from rayinfluence.dataflow.asking import ask as asked

        if generate:
            drawn_by = (config.seed if seed is None else seed) if sample else None
            row = answered(run, row, Generating(tokens or 32, drawn_by))
        found = asked(run, row)
        write_report(run.store, found.results)
    if as_json:
        typer.echo(json.dumps(_as_json(found.query_id, found.results, generate, top), indent=1))
    else:
        first, *others = found.results.values()
        show_queries(first, top, [found.query_id], others)
        say_report(run.store)
    end_incomplete(run)


def _refuse_idle(generate: bool, given: Mapping[str, Any]) -> None:
    """Refuse what says how an answer is made where none is."""
    idle = [name for name, value in given.items() if value is not None]
    if idle and not generate:
        raise ConfigError(f"{idle[0]} is of an answer of the model's: add --generate.")


def _as_json(
    query_id: str, results: Mapping[str, Results], generated: bool, top: int
) -> dict[str, Any]:
    query = next(iter(results.values())).queries[query_id]
    return {
        "format": 1,
        **{key: query[key] for key in _OF_A_QUERY},
        "generated": generated,
        "methods": {
            method: {
                "proponents": [_hit(one) for one in found.proponents(query_id, top)],
                "opponents": [_hit(one) for one in found.opponents(query_id, top)],
            }
            for method, found in results.items()
            if query_id in found.queries
        },
    }


def _hit(survivor: Survivor) -> dict[str, Any]:
    return {key: getattr(survivor, key) for key in _OF_A_HIT}
