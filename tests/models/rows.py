"""The row of a family in docs/models.md, and the whole file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from families import Family
from measured import Subject, errors, load, off_in_a_run, prepare
from shares import Counted, counted, published

from rayinfluence.errors import ModelError
from rayinfluence.model.modules import shape_of
from rayinfluence.model.reach import listed, patterns_of
from rayinfluence.objective_kinds import SEQ2SEQ
from rayinfluence.storage.results import Results

FILE = Path(__file__).parents[2] / "docs" / "models.md"
Row = dict[str, Any]

#: Parts of a block in the order of the table.
_PARTS = ("attention", "mlp", "router")
#: Errors below are those of rounding, and differ between machines.
_ROUNDING = 1e-14
#: What is left untracked is named from this share on.
_WORTH_NAMING = 0.01
#: And no more than so much.
_MOST = 4
_TEMPLATE = Path(__file__).with_name("page.md")
_REFUSED = """
## What is refused

| family | with |
| --- | --- |
"""


def row(family: Family, folder: Path, execute: Callable[..., dict[str, Results]]) -> Row:
    """What is tracked of a family, what its published model would have, and all errors.

    The sentence of the refusal, where it is refused.
    """
    try:
        subject = prepare(family, folder)
    except ModelError as error:
        return {"family": family.name, "refused": str(error).replace(str(folder), "")}
    tracked = subject.tracked
    mlp, notes = load(subject.config, family.objective, "mlp"), []
    by_kind = {"all": subject.names, "mlp": list(mlp.replica.modules)}
    coverage = {"all": tracked.coverage.share, "mlp": mlp.coverage.share}
    if not family.adapter and "mlp" not in tracked.parts.values():
        notes.append("`mlp` is all, as there is no MLP")
    size = {kind: counted(subject, subject.plain, names) for kind, names in by_kind.items()}
    tiny = coverage if family.adapter else {kind: one.share for kind, one in size.items()}
    real: dict[str, Counted] = {}
    if family.checkpoint:
        model = published(family)
        real = {kind: counted(subject, model, names) for kind, names in by_kind.items()}
    if tracked.unfit:
        left_out = listed(patterns_of(tracked.unfit))
        notes.append(f"left out: {left_out} ({tracked.reach.unfit[tracked.unfit[0]]})")
    if tracked.reach.outside:
        notes.append(f"text does not reach {listed(tracked.reach.outside)}")
    if subject.needs_context:
        notes.append("`corpus.context`")
    if family.dtype != "float64":
        notes.append(f"in {family.dtype}, as its code cannot compute in float64")
    run = off_in_a_run(subject, execute(subject.config))
    # Of what was trained, where that is an adapter, nothing is left.
    largest = [] if family.adapter else list((real or size)["all"].rest.items())
    return {
        "family": family.name,
        "class": type(subject.replica.model).__name__,
        "layers": _layers(subject),
        "tiny": tiny,
        "checkpoint": family.checkpoint,
        "parameters": real["all"].total if real else 0,
        "real": {kind: one.share for kind, one in real.items()},
        "rest": {name: share for name, share in largest[:_MOST] if share >= _WORTH_NAMING},
        "coverage": coverage,
        "errors": {**errors(subject, folder), "run": run},
        "attention": subject.replica.numerics.attention,
        "notes": notes,
    }


def _layers(subject: Subject) -> dict[str, list[str]]:
    """The last names of tracked layers, by part; those of an adapter have none."""
    found: dict[str, dict[str, None]] = {}
    for name in subject.names:
        (pattern,) = patterns_of([name])
        last = pattern.removesuffix(".*").removesuffix(".default").rpartition(".")[2]
        module = subject.replica.modules[name]
        sides = subject.family.objective == SEQ2SEQ  # whose rows are some of the tokens, too
        if not sides and shape_of(name, module, subject.replica.model).routed:
            last = f"experts.{last}"
        found.setdefault(subject.tracked.parts.get(name, "adapter"), {})[last] = None
    return {part: list(names) for part, names in found.items()}


def written(rows: Mapping[str, Row]) -> str:
    """The whole file."""
    fine = [one for one in rows.values() if "refused" not in one]
    refused = [one for one in rows.values() if "refused" in one]
    tables = {"tracked": map(what_is_tracked, fine), "errors": map(how_far_off, fine)}
    page = _TEMPLATE.read_text("utf-8").rstrip()
    for name, lines in tables.items():
        page = page.replace(f"{{{name}}}", "".join(lines))
    if refused:
        page += "".join([_REFUSED, *(_cells(one["family"], one["refused"]) for one in refused)])
    return page


def what_is_tracked(one: Row) -> str:
    """A family's line in the first table."""
    layers = "; ".join(
        f"{part}: {' '.join(one['layers'][part])}"
        for part in (*_PARTS, "adapter")
        if part in one["layers"]
    )
    rest = ", ".join(
        f"{name.removesuffix('.weight')} {share:.1%}" for name, share in one["rest"].items()
    )
    return _cells(
        one["family"],
        f"`{one['class']}`",
        layers,
        *(_share(one["tiny"].get(kind)) for kind in ("mlp", "all")),
        one["checkpoint"],
        f"{one['parameters']:,}" if one["parameters"] else "",
        *(_share(one["real"].get(kind)) for kind in ("mlp", "all")),
        rest,
    )


def how_far_off(one: Row) -> str:
    """A family's line in the second table."""
    return _cells(
        one["family"],
        *(f"{power(error):.0e}" for error in one["errors"].values()),
        one["attention"],
        "; ".join(one["notes"]),
    )


def power(error: float) -> float:
    """The power of ten that an error is at most."""
    return 10.0 ** math.ceil(math.log10(max(error, _ROUNDING)))


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _cells(*texts: str) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |\n"
