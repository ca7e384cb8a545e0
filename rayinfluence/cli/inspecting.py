"""``rayinfluence inspect``: what of a model is tracked, and what that takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rayinfluence.addresses import hub_address
from rayinfluence.cli.options import AsJson, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Column, Part, Shown, Table, show
from rayinfluence.text import in_bytes

if TYPE_CHECKING:
    from rayinfluence.dataflow.plan.inspection import Alike, Bytes, Inspection

#: Weights that are not tracked, by name.
_NAMED = 12


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model's folder, its hf:// address, or a run's YAML file."
        ),
    ],
    modules: Annotated[
        list[str] | None,
        typer.Option(help="mlp, attention or all, or a pattern of names; repeatable."),
    ] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say what of a model is tracked, what that takes, and whether a run would refuse it."""
    from rayinfluence.dataflow.begin.early import refuse_no_folder
    from rayinfluence.dataflow.places import model_config

    config = model_config(model, modules or None, settings or ())
    if hub_address(config.model) is None:
        refuse_no_folder("model", config.model)
    from rayinfluence.dataflow.plan.inspecting import inspect as look

    found = look(config, lambda text: say(text, error=True))
    show(Shown(_parts(found), found.to_json()), as_json)
    if found.refused is not None:
        raise found.refused


def _parts(found: Inspection) -> list[Part]:
    """What of a model is tracked and not, what it takes, and what the checks found."""
    from rayinfluence.dataflow.begin.preflight import line

    rank = "dense queries" if found.rank is None else f"queries of rank {found.rank}"
    numerics = found.tracked.replica.numerics
    coverage = found.tracked.coverage
    largest = list(coverage.rest.items())[:_NAMED]
    rest = sum(size for _, size in list(coverage.rest.items())[_NAMED:])
    parts: list[Part] = [
        found.tracked.line,
        f"counted for  {numerics.device}, {numerics.dtype}, attention {numerics.attention}; "
        f"sequences of {found.context:,} tokens, batches of {found.batch_tokens:,}; {rank}",
        _table(
            ("linear layers", "part", "", "in", "out", "bias", "tracked", "contraction"),
            [_row(layers) for layers in found.layers],
        ),
        _table(
            ("not tracked", "parameters", "share"),
            [
                (name, f"{size:,}", f"{size / coverage.reached:.2%}")
                for name, size in [*largest, *([("all others", rest)] if rest else [])]
            ],
        ),
    ]
    if found.bytes is not None and found.fullest is not None:
        parts += _bytes(found, found.bytes, found.fullest)
    if found.passed is not None:
        parts.append(line(found.passed, before=False))
    if not found.has_weights:
        parts.append(
            "checks       none: there are no weights, and sizes are by the configuration alone"
        )
    return [*parts, *(f"warning: {text}" for text in found.tracked.warnings)]


def _bytes(found: Inspection, size: Bytes, fullest: Bytes) -> list[Part]:
    measured = f"measured on {size.measured_on:,} tokens"
    over = f" on each of {found.gpus} GPUs" if found.gpus > 1 else ""
    fits = "fits" if fullest.fit <= found.memory else "does not fit"
    return [
        _table(
            ("bytes", "", ""),
            [
                ("weights", in_bytes(size.weights), ""),
                ("activations of a batch", in_bytes(size.activations), measured),
                ("sums and bases while fitting", in_bytes(size.fitting), ""),
                ("factors, as stored", in_bytes(size.factors), ""),
                ("window of a scan", in_bytes(size.window), ""),
                ("a query's bank", in_bytes(size.bank), ""),
                ("a query's gradient in the second pass", in_bytes(size.gradient), ""),
            ],
        ),
        f"memory       {in_bytes(found.memory)} here{over}; a fit takes {in_bytes(fullest.fit)} of "
        f"it and {fits}, a scan {in_bytes(fullest.scan)} and its banks: {found.queries_that_fit:,} "
        "queries fit. Of one replica, without what a process takes by itself",
        *([f"GPUs         {found.on_gpus}, before banks of queries"] if found.on_gpus else []),
    ]


def _row(layers: Alike) -> tuple[str, ...]:
    most = layers.factored_up_to
    contraction = (
        "factored"
        if most is None
        else f"factored up to {most:,} queries"
        if most
        else "materialised"
    )
    return (
        layers.pattern,
        layers.part or "",
        f"{layers.number:,}",
        f"{layers.d_in:,}",
        f"{layers.d_out:,}",
        "yes" if layers.bias else "no",
        "yes" if layers.tracked else f"no: {layers.why}",
        contraction if layers.tracked else "",
    )


def _table(titles: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    columns = [
        Column(title, number=bool(rows) and all(row[place][:1].isdigit() for row in rows))
        for place, title in enumerate(titles)
    ]
    return Table(columns, rows)
