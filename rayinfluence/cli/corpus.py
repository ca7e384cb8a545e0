"""``rayinfluence corpus``: looking into documents and what becomes of them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rayinfluence.cli.saying import say

app = typer.Typer(name="corpus", help="Look into documents and what becomes of them.")


@app.callback()
def about() -> None:
    """Look into documents and what becomes of them."""


@app.command()
def show(
    place: Annotated[
        str,
        typer.Argument(
            metavar="DOCUMENTS-OR-CONFIG",
            help="A file, folder or glob of documents, or a run's YAML file or directory.",
        ),
    ],
    document_id: Annotated[str | None, typer.Option("--id", help="Of the document.")] = None,
    row: Annotated[int | None, typer.Option(help="Its line or row in its file.", min=1)] = None,
    file: Annotated[
        str | None, typer.Option(help="How the address of its file ends, where there are several.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Most tokens of a sequence, where nothing says so.", min=2)
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The folder of one, where no configuration names it.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="The text's, of documents without a configuration.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Of texts, for documents without a configuration.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Print a document as tokens, as what of it counts, and as sequences. The first by default."""
    from rayinfluence.dataflow.looking import looked_at

    looking = looked_at(
        place,
        tokenizer,
        {"text_column": text_column, "template": template},
        lambda text: say(text, error=True),
    )
    found = looking.document(document_id, row, file, context)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        say("\n".join(found.lines()))
