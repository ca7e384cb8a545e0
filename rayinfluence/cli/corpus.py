"""``rayinfluence corpus``: looking into documents and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from rayinfluence.cli.options import AsJson
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown
from rayinfluence.display import show as display
from rayinfluence.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from rayinfluence.dataflow.tokenised import Tokenised

app = typer.Typer(
    name="corpus",
    help="Look into documents and what becomes of them.",
)

Place = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS", help="The folder of a corpus, a run directory, or a run's YAML file."
    ),
]
Count = Annotated[int, typer.Option("--count", "-n", help="How many are printed.", min=1)]
WholeDocuments = Annotated[
    bool, typer.Option("--documents", help="Documents, with all of their sequences.")
]
TokenizerPath = Annotated[
    str | None, typer.Option("--tokenizer", help="Its folder, where no run says so.")
]


class Found(Protocol):
    """What there is to print."""

    def to_json(self) -> dict[str, Any]:
        """It as JSON has it."""

    def lines(self) -> Iterator[str]:
        """It for a terminal."""


@app.callback()
def about() -> None:
    """Look into documents and what becomes of them."""


@app.command()
def show(
    place: Annotated[
        str,
        typer.Argument(
            metavar="DOCUMENTS-OR-CONFIG-OR-CORPUS",
            help="A file, folder or glob of documents, a run's YAML file or directory, or the "
            "folder of a corpus.",
        ),
    ],
    document_id: Annotated[str | None, typer.Option("--id", help="Of the document.")] = None,
    sequence: Annotated[
        int | None, typer.Option(help="The id of a sequence of results, from the shards.", min=0)
    ] = None,
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
    as_json: AsJson = False,
) -> None:
    """Print a document as tokens, as what of it counts, and as sequences. The first by default."""
    from rayinfluence.dataflow.places import is_a_corpus

    if sequence is not None or is_a_corpus(place):
        of_documents = {
            "--row": row,
            "--file": file,
            "--context": context,
            "--text-column": text_column,
            "--template": template,
        } | ({"--id": document_id} if sequence is not None else {})
        if others := [name for name, value in of_documents.items() if value is not None]:
            raise ConfigError(
                f"{', '.join(others)}: shards are looked into by --id or by --sequence alone; name "
                "documents or a run's YAML file to look into documents."
            )
        found = _tokenised(place).by_id(document_id, sequence, tokenizer)
    else:
        from rayinfluence.dataflow.looking import looked_at

        columns = {"text_column": text_column, "template": template}
        looking = looked_at(place, tokenizer, columns, _aside)
        found = looking.document(document_id, row, file, context)
    _print(found, as_json)


@app.command()
def stats(
    place: Place,
    by: Annotated[
        list[str] | None,
        typer.Option(help="A key of metadata; by default those that say a source or a language."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count documents, sequences, tokens, lengths, values of metadata and what was left out."""
    _print(_tokenised(place).statistics(by), as_json)


@app.command()
def head(
    place: Place,
    count: Count = 5,
    documents: WholeDocuments = False,
    tokenizer: TokenizerPath = None,
    as_json: AsJson = False,
) -> None:
    """Print the first sequences of a corpus, or its first documents."""
    _print_all(_tokenised(place).some(count, documents, None, tokenizer), as_json)


@app.command()
def sample(
    place: Place,
    count: Count = 5,
    seed: Annotated[int, typer.Option(help="Another one draws others.", min=0)] = 0,
    documents: WholeDocuments = False,
    tokenizer: TokenizerPath = None,
    as_json: AsJson = False,
) -> None:
    """Print random sequences of a corpus, or random documents, each as likely as any other."""
    _print_all(_tokenised(place).some(count, documents, seed, tokenizer), as_json)


@app.command()
def validate(
    place: Place,
    model: Annotated[str | None, typer.Option(help="A folder; that of the run by default.")] = None,
    tokenizer: TokenizerPath = None,
    as_json: AsJson = False,
) -> None:
    """Read all shards and list what is wrong, each row with its reason; exit code 4 if anything."""
    n_found, listed = 0, []
    for finding in _tokenised(place).findings(model, tokenizer):
        n_found += 1
        if as_json:
            listed.append(finding.to_json())
        else:
            say(finding.line())
    said = f"{n_found:,} findings" if n_found else "nothing is wrong"
    display(Shown([said], {"findings": listed}), as_json)
    if n_found:
        raise typer.Exit(CorpusError.exit_code)


@app.command()
def duplicates(
    place: Place,
    threshold: Annotated[
        float, typer.Option(help="The least Jaccard index of two near copies.", min=0.5, max=1.0)
    ] = 0.8,
    output: Annotated[
        str | None, typer.Option(help="A Parquet file to write: the group of each sequence.")
    ] = None,
    show: Annotated[int, typer.Option(help="Groups that are printed, the largest.", min=0)] = 10,
    as_json: AsJson = False,
) -> None:
    """Find exact and near copies among sequences, not documents (MinHash); none is taken out."""
    _print(_tokenised(place).copies(threshold, output, show), as_json)


def _tokenised(place: str) -> Tokenised:
    from rayinfluence.dataflow.tokenised import Tokenised

    return Tokenised.at(place, _aside)


def _aside(text: str) -> None:
    say(text, error=True)


def _print(found: Found, as_json: bool) -> None:
    display(Shown([*found.lines()], found.to_json()), as_json)


def _print_all(found: Iterable[Found], as_json: bool) -> None:
    """Several, one after the other; as JSON they are one list."""
    several = list(found)
    lines = [line for one in several for line in (*["\n"], *one.lines())][1:]
    display(Shown(lines, {"documents": [one.to_json() for one in several]}), as_json)
