"""``rayinfluence review``: first hits for people to judge, and what they said of them."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from rayinfluence.addresses import expanded, why_no_address
from rayinfluence.cli.options import AsJson, EndpointUrl, RunPath, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.display.as_json import json_text
from rayinfluence.errors import ConfigError, InputError

if TYPE_CHECKING:
    from rayinfluence.analysis.reviewed import Drawn
    from rayinfluence.dataflow.places import RunPlace
    from rayinfluence.storage.store import Store

app = typer.Typer(
    name="review",
    help="Let people judge first hits without knowing which method found them.",
    no_args_is_help=True,
)
_SHEET, _PAGE, _KEY = "sheet.csv", "sheet.html", "key.json"


@app.command()
def export(
    run_directory: RunPath,
    out: Annotated[str, typer.Option(help="A folder for the sheet and its key; may be s3://.")],
    query: Annotated[
        list[str] | None, typer.Option(help="The id of one that is asked; all by default.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Whose hits are shown; all of the run by default.")
    ] = None,
    top: Annotated[int, typer.Option(help="First hits of each method and query.", min=1)] = 5,
    random: Annotated[
        int, typer.Option(help="Random sequences of the corpus, beside each query.", min=0)
    ] = 3,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="What a text may be about, as a category; repeatable. Free by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order and of random ones.", min=0)] = 0,
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write a sheet of first hits and random sequences, shuffled, and a key to methods."""
    if why := why_no_address(out):
        raise ConfigError(f"--out: {why}")
    from rayinfluence.analysis.reviewed import chosen
    from rayinfluence.cli.showing import all_results
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.report.asked import said
    from rayinfluence.report.reviewed import sheet_csv, sheet_page

    place = run_place(run_directory, endpoint_url, settings or ())
    folder = place.beside(out)
    if folder.exists(_KEY):
        raise ConfigError(
            f"--out {out}: there is a {_KEY} already, which answers may be waiting for. Name "
            "another folder."
        )
    results = all_results(place.store)
    if unknown := [one for one in method or () if one not in results]:
        raise ConfigError(f"--method {unknown[0]}: the run has {', '.join(results)}.")
    # What asks no query has no question to show.
    names = method or [name for name, one in results.items() if not one.meaning.of_itself]
    by_method = {name: results[name] for name in dict.fromkeys(names)}
    asked = {
        query_id: said(row)[:2]
        for one in by_method.values()
        for query_id, row in one.queries.items()
    }
    if missing := [one for one in query or () if one not in asked]:
        raise ConfigError(
            f"--query {missing[0]}: the run has {', '.join([*asked][:3])} and others."
        )
    queries = {one: asked[one] for one in dict.fromkeys(query or asked)}
    drawn: dict[str, list[Drawn]] = {}
    if random:
        server = [] if endpoint_url is None else [f"storage.endpoint_url={endpoint_url}"]
        drawn = _random(
            run_directory, place, [*(settings or ()), *server], [*queries], random, seed
        )
    review = chosen(by_method, queries, top, drawn, topic or (), seed)
    folder.write(_SHEET, sheet_csv(review).encode("utf-8-sig"))
    folder.write(_PAGE, sheet_page(review).encode())
    folder.write(_KEY, json_text(review.key()).encode())
    values = {
        "export": review.export,
        "items": len(review.items),
        "queries": len(queries),
        "methods": list(review.methods),
        **{name: f"{folder.url}/{key}" for name, key in _files().items()},
    }
    lines = [
        f"{len(review.items):,} texts beside {len(queries):,} questions, by "
        f"{', '.join(review.methods)}",
        f"to fill in: {folder.url}/{_PAGE} or {folder.url}/{_SHEET}",
        f"to keep from who fills it in: {folder.url}/{_KEY}",
    ]
    show(Shown(lines, values), as_json)


@app.command(name="import")
def import_sheets(
    sheets: Annotated[
        list[str], typer.Argument(metavar="SHEET...", help="Files that people have filled in.")
    ],
    key: Annotated[str, typer.Option(help="The key.json of their export; may be s3://.")],
    out: Annotated[
        str | None, typer.Option(help="A folder for a page and its JSON; may be s3://.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Say how far people agree, and how relevant they find each method's first hits."""
    if out is not None and (why := why_no_address(out)):
        raise ConfigError(f"--out: {why}")
    from rayinfluence.analysis.reviewed import Review, read_sheet, reviewed
    from rayinfluence.report.reviewed import reviewed_page, reviewed_parts

    try:
        values = json.loads(_read(key, endpoint_url))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{key} is no JSON: name the key.json of the export.") from error
    review = Review.of_key(values, key)
    found = reviewed(
        review, [read_sheet(_name(one), _read(one, endpoint_url), review) for one in sheets]
    )
    page = None
    if out is not None:
        folder = _reached(expanded(out), endpoint_url)
        folder.write("review.json", json_text(found.to_json()).encode())
        folder.write("review.html", reviewed_page(found).encode())
        page = f"{folder.url}/review.html"
    show(Shown(reviewed_parts(found), {**found.to_json(), "page": page}), as_json)
    if page is not None:
        say(f"page: {page}", error=as_json)


def _files() -> dict[str, str]:
    return {"sheet": _SHEET, "page": _PAGE, "key": _KEY}


def _random(
    run: str, place: RunPlace, settings: list[str], queries: list[str], n: int, seed: int
) -> dict[str, list[Drawn]]:
    """As many random sequences of the corpus for each query as were asked for, or as there are."""
    import numpy as np

    from rayinfluence.analysis.reviewed import Drawn
    from rayinfluence.corpus.corpus import Corpus
    from rayinfluence.corpus.ordinals import entry_key
    from rayinfluence.dataflow.places import run_config
    from rayinfluence.dataflow.tokenised import Tokenised

    if not place.corpus.exists(entry_key(0)):
        raise ConfigError(
            f"--random {n}: {place.corpus.url} holds no tokenised corpus to draw sequences from, "
            "as of results of `merge` and of leave-one-out. Take --random 0, which compares hits "
            "with nothing, or export from the directory of a run."
        )
    config = run_config(run, settings=settings)
    corpus = Tokenised(Corpus.open(place.corpus), config, lambda text: say(text, error=True))
    found = [
        Drawn(sequence.sequence_id, "".join(token.text for token in sequence.tokens))
        for document in corpus.some(n * len(queries), False, seed, None)
        for sequence in document.sequences
        if sequence.sequence_id is not None
    ]
    # They come in the order of the corpus.
    order = np.random.default_rng([seed, 6]).permutation(len(found)).tolist()
    return {
        query_id: [found[one] for one in order[first :: len(queries)]]
        for first, query_id in enumerate(queries)
    }


def _read(place: str, endpoint_url: str | None) -> bytes:
    if why := why_no_address(place):
        raise ConfigError(why)
    before, slash, name = expanded(place).rpartition("/")
    return _reached(f"{before}{slash}" or ".", endpoint_url).read(name)


def _reached(folder: str, endpoint_url: str | None) -> Store:
    """A folder of which no run says how it is reached."""
    from rayinfluence.dataflow.places import storage_of
    from rayinfluence.storage.store import Store

    return Store(folder, storage_of(endpoint_url, folder).options(folder))


def _name(place: str) -> str:
    return PurePosixPath(place).name
