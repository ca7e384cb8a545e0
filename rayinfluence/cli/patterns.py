"""``rayinfluence patterns``: through which tokens, heads and skip connections an answer comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rayinfluence.addresses import expanded, hub_address, why_no_address
from rayinfluence.cli.options import AsJson, Quiet, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.config import RunConfig
    from rayinfluence.patterns.asked import Asked
    from rayinfluence.patterns.found import Found


def patterns(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model's folder, its hf:// address, or a run's YAML file."
        ),
    ],
    query: Annotated[
        list[str],
        typer.Option(
            help='{"prompt": ..., "right": ..., "wrong": ...} (of a masked model text, with a mask '
            "in it), or a file of such lines; repeatable."
        ),
    ],
    points: Annotated[
        int, typer.Option(help="Of the line from the baseline to the input.", min=2)
    ] = 50,
    page: Annotated[
        str | None, typer.Option(help="Where a page is written, with pictures; may be s3://.")
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say through which tokens, heads and skip connections a model comes to an answer."""
    from rayinfluence.dataflow.begin.early import refuse_no_folder
    from rayinfluence.dataflow.begin.features import refuse_rows
    from rayinfluence.dataflow.places import model_config
    from rayinfluence.patterns.asked import read_asked
    from rayinfluence.storage.store import Store

    if page is not None and (why := why_no_address(page)):
        raise ConfigError(f"--page: {why}")
    config = model_config(model, None, settings or ())
    refuse_rows(config, "patterns")

    def opened(place: str) -> Store:
        path = expanded(place)
        return Store(path, config.storage.options(path))

    asked = read_asked(query, opened)
    if hub_address(config.model) is None:
        refuse_no_folder("model", config.model)
    found = _found(config, asked, points, quiet)
    # rich's tables come with torch's time, and what is refused above needs neither.
    from rayinfluence.patterns.page import patterns_page
    from rayinfluence.patterns.sentences import parts

    if page is not None:
        opened(page).write("", patterns_page(found).encode())
    show(Shown(parts(found), {**found.to_json(), "page": page}), as_json)
    if page is not None:
        say(f"page: {page}", error=as_json)


def _found(config: RunConfig, asked: list[Asked], points: int, quiet: bool) -> Found:
    """Load the model as a run would, with all its derivatives, and ask it."""
    from rayinfluence.dataflow.begin.fetched import fetched
    from rayinfluence.dataflow.begin.objective import kind_of_run
    from rayinfluence.model.weight_files import read_config
    from rayinfluence.objective_kinds import CAUSAL
    from rayinfluence.patterns.anatomy import anatomy_of, refuse_other_family

    folders = fetched(config, lambda text: say(text, error=True))
    kind = kind_of_run(config, folders.source.weights)
    refuse_other_family(read_config(folders.source.weights).get("model_type"), kind)
    from rayinfluence.corpus.tokenizer_files import load_tokenizer

    tokenizer = load_tokenizer(folders.tokenizer.path, trust_remote_code=config.trust_remote_code)
    # After what can be said without it: importing torch takes seconds.
    import torch

    from rayinfluence.dataflow.compute.replica import Numerics
    from rayinfluence.model.load import context_length, load_model, vocabulary_size
    from rayinfluence.patterns.asked import Asking
    from rayinfluence.patterns.baseline import baseline_of
    from rayinfluence.patterns.explain import explain

    device = Numerics.of(config, kind=kind).device
    network = load_model(
        folders.model.path,
        # Sums of many derivatives need more digits than a scan of bfloat16.
        torch.float64 if config.dtype == "float64" else torch.float32,
        base_model=None if folders.base is None else folders.base.path,
        attention="eager",  # others have no derivatives forward
        trust_remote_code=config.trust_remote_code,
        kind=kind,
    ).to(device)
    asking = Asking(tokenizer, kind, context_length(network), vocabulary_size(network) or 0)
    return explain(
        network,
        anatomy_of(network),
        [asking.question(one) for one in asked],
        baseline_of(network, tokenizer, kind),
        points,
        kind == CAUSAL,
        (lambda _: None) if quiet else (lambda text: say(text, error=True)),
    )
