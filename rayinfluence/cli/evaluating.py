"""`rayinfluence evaluate`: methods beside each other, by what became of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rayinfluence.cli.leaving_out import leave_out
from rayinfluence.cli.opening import configured
from rayinfluence.cli.options import AsJson, Quiet, RunnerName, Settings
from rayinfluence.cli.responses import show_responses
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.display.as_json import json_text
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.storage.results.evaluated import Evaluated
    from rayinfluence.storage.store import Store

#: What can stand before the configuration.
_DAMPING, _PBRF, _LEAVE_ONE_OUT = "damping", "pbrf", "leave-one-out"


def evaluate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[damping|pbrf|leave-one-out] CONFIG",
            help="The run's YAML file, or its run directory; before it `damping`, to measure that, "
            "`pbrf`, to compare with proximal Bregman responses, or `leave-one-out`, to train "
            "without each of the run's first hits, or of its groups.",
        ),
    ],
    into: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Of leave-one-out: where its results go."),
    ] = None,
    first: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of leave-one-out: hits of each query, direction and method; 3 by default."
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Of leave-one-out: leave out groups, the documents with the same value of this "
            "metadata key, in the place of hits; the largest 20, or evaluation.groups.most.",
        ),
    ] = None,
    settings: Settings = None,
    runner: RunnerName = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure methods, or dampings, by training again; or beside moved weights."""
    asked = what[0] if len(what) == 2 else None
    if len(what) > 1 and asked not in (_DAMPING, _PBRF, _LEAVE_ONE_OUT):
        raise ConfigError(
            f"evaluate: {' '.join(what[:3])} is no configuration; write `rayinfluence evaluate "
            f"CONFIG`, with {_DAMPING}, {_PBRF} or {_LEAVE_ONE_OUT} before it where that is asked "
            "for."
        )
    if (into is None) == (asked == _LEAVE_ONE_OUT):
        raise ConfigError(
            "--into: it is the folder that results of leave-one-out go to. Name it with "
            f"`rayinfluence evaluate {_LEAVE_ONE_OUT} CONFIG`, and there alone."
        )
    for option, given in (("--first", first), ("--groups", groups)):
        if given is not None and asked != _LEAVE_ONE_OUT:
            raise ConfigError(
                f"{option}: it says what `rayinfluence evaluate {_LEAVE_ONE_OUT} CONFIG` leaves "
                "out, and nothing else has it."
            )
    if first is not None and groups is not None:
        raise ConfigError(
            "--first and --groups: either first hits are left out, or groups; leave one away. How "
            "many groups says evaluation.groups.most."
        )
    config = configured(what[-1], runner, settings=settings)
    if asked == _PBRF:
        show_responses(config, quiet, as_json)
        return
    if config.evaluation is None:
        raise ConfigError(
            f"evaluation: {what[-1]} has no such section, which says how models are trained and "
            "what is measured. docs/quality.md has one to begin with."
        )
    if into is not None:
        leave_out(config, into, first, groups, quiet, as_json)
        return
    from rayinfluence.dataflow import layout
    from rayinfluence.dataflow.stages.progress import ProgressLog
    from rayinfluence.evaluation.contenders import contenders
    from rayinfluence.evaluation.dampings import damped
    from rayinfluence.evaluation.evaluate import evaluate as measure
    from rayinfluence.report.evaluated import evaluation_parts
    from rayinfluence.storage.store import Store

    if asked == _DAMPING:
        config, rivals = damped(config)
        keys = layout.DAMPINGS, layout.DAMPINGS_PAGE
    else:
        rivals, keys = contenders(config), (layout.EVALUATED, layout.EVALUATED_PAGE)
    found = measure(config, rivals, ProgressLog(quiet=quiet))
    store = Store(config.run, config.storage.options(config.run))
    page = _write(store, found, *keys)
    show(Shown(evaluation_parts(found), {**found.to_json(), "page": page}), as_json)
    say(f"evaluation: {page}", error=as_json)


def _write(store: Store, found: Evaluated, key: str, page_key: str) -> str:
    """Leave what was measured, and its page, in the run directory; the address of the page."""
    from rayinfluence.report.evaluated import evaluation_page

    store.write(key, json_text(found.to_json()).encode())
    store.write(page_key, evaluation_page(found).encode())
    return f"{store.url}/{page_key}"
