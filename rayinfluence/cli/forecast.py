"""A forecast for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rayinfluence.config import RunConfig
from rayinfluence.display import Column, Part, Table
from rayinfluence.text import in_bytes

if TYPE_CHECKING:
    from rayinfluence.dataflow.plan.planning import Plan


def planned_parts(planned: Plan, config: RunConfig, price: float) -> list[Part]:
    """What a run will take: time, money, bytes and memory.

    Args:
        planned: by a few splits.
        config: of the run.
        price: of a replica's machine for an hour; 0 where nobody asks.
    """
    from rayinfluence.methods.registry import TEXT_METHODS

    work, found = planned.work, planned.forecast
    per_gpu = "GPU-hours" if planned.device == "cuda" else "actor-hours"
    actors = "1 actor" if planned.actors == 1 else f"{planned.actors} actors"
    texts = [method for method in config.scan.methods if method in TEXT_METHODS]
    fullest = found.fullest if planned.rates.gpus > 1 else {}
    return [
        f"{planned.sequences:,} sequences, {work.tokens:,} tokens, {work.splits:,} splits; "
        f"{work.n_queries} queries; {planned.coverage:.0%} of the parameters are tracked",
        f"{in_time(3600 * found.hours)} on {actors}, {planned.device_hours:.3g} {per_gpu}"
        + (f", {planned.price(price):,.2f} at {price:g} per replica and hour" if price else ""),
        *([f"{planned.gpus}, without activations"] if planned.gpus else []),
        _table("stage", {name: in_time(seconds) for name, seconds in found.seconds.items()}),
        _bytes("stored", {**found.stored, "together": sum(found.stored.values())}),
        _bytes("memory of a worker", found.memory),
        *([_bytes("memory of its fullest GPU", fullest)] if fullest else []),
        f"measured by one worker on {len(planned.rates.splits)} splits; the fit is counted with "
        "all of its sample, and stops earlier where it is sure enough"
        + ("; a solver with all of its steps" if work.solves else "")
        + ("; the fit of the last layer with all of its steps, most of which it seldom takes")
        * bool(work.refit)
        + (f"; {', '.join(texts)}: not in it, as texts need no model" if texts else ""),
    ]


def in_time(seconds: float) -> str:
    """A time with the unit that fits it: ``1.5 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def _bytes(title: str, sizes: Mapping[str, int]) -> Table:
    return _table(title, {name: in_bytes(size) for name, size in sizes.items()})


def _table(title: str, rows: Mapping[str, str]) -> Table:
    return Table((Column(title), Column("", number=True)), list(rows.items()))
