"""An inspection on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayinfluence.dataflow.begin.preflight import line
from rayinfluence.dataflow.plan.inspection import Alike, Bytes, Inspection
from rayinfluence.text import in_bytes, visible_line

#: Weights that are not tracked, by name.
_NAMED = 12


def show(found: Inspection, console: Console) -> None:
    """Print what of a model is tracked and not, what it takes, and what the checks found."""
    _say(console, found.tracked.line)
    rank = "dense queries" if found.rank is None else f"queries of rank {found.rank}"
    numerics = found.tracked.replica.numerics
    _say(
        console,
        f"counted for  {numerics.device}, {numerics.dtype}, attention {numerics.attention}; "
        f"sequences of {found.context:,} tokens, batches of {found.batch_tokens:,}; {rank}",
    )
    _show(
        console,
        ("linear layers", "part", "", "in", "out", "bias", "tracked", "contraction"),
        [_row(layers) for layers in found.layers],
    )
    coverage = found.tracked.coverage
    largest = list(coverage.rest.items())[:_NAMED]
    rest = sum(size for _, size in list(coverage.rest.items())[_NAMED:])
    _show(
        console,
        ("not tracked", "parameters", "share"),
        [
            (name, f"{size:,}", f"{size / coverage.reached:.2%}")
            for name, size in [*largest, *([("all others", rest)] if rest else [])]
        ],
    )
    if found.bytes is not None and found.fullest is not None:
        _show_bytes(console, found, found.bytes, found.fullest)
    if found.passed is not None:
        _say(console, line(found.passed, before=False))
    if not found.has_weights:
        _say(
            console,
            "checks       none: there are no weights, and sizes are by the configuration alone",
        )
    for text in found.tracked.warnings:
        _say(console, f"warning: {text}")


def _show_bytes(console: Console, found: Inspection, size: Bytes, fullest: Bytes) -> None:
    measured = f"measured on {size.measured_on:,} tokens"
    _show(
        console,
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
    )
    over = f" on each of {found.gpus} GPUs" if found.gpus > 1 else ""
    fits = "fits" if fullest.fit <= found.memory else "does not fit"
    _say(
        console,
        f"memory       {in_bytes(found.memory)} here{over}; a fit takes {in_bytes(fullest.fit)} of "
        f"it and {fits}, a scan {in_bytes(fullest.scan)} and its banks: {found.queries_that_fit:,} "
        "queries fit. Of one replica, without what a process takes by itself",
    )
    if found.on_gpus:
        _say(console, f"GPUs         {found.on_gpus}, before banks of queries")


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


def _show(console: Console, titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for place, title in enumerate(titles):
        numbers = all(row[place][:1].isdigit() for row in rows) and bool(rows)
        table.add_column(title, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible_line(cell)) for cell in row))
    console.print(table)


def _say(console: Console, text: str) -> None:
    console.print(visible_line(text), markup=False, highlight=False, soft_wrap=True)
