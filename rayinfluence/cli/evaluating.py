"""`rayinfluence evaluate`: methods beside each other, by what became of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rayinfluence.cli.opening import configured
from rayinfluence.cli.options import AsJson, Quiet, RunnerName, Settings
from rayinfluence.cli.saying import say
from rayinfluence.display import Shown, show
from rayinfluence.display.as_json import json_text
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.storage.results.evaluated import Evaluated
    from rayinfluence.storage.store import Store

#: What can stand before the configuration.
_DAMPING = "damping"


def evaluate(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[damping] CONFIG",
            help="The run's YAML file, or its run directory; after `damping`, that is measured.",
        ),
    ],
    settings: Settings = None,
    runner: RunnerName = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure methods, or dampings, by training again on parts of the corpus."""
    of_dampings = len(what) == 2 and what[0] == _DAMPING
    if len(what) > 1 and not of_dampings:
        raise ConfigError(
            f"evaluate: {' '.join(what[:3])} is no configuration; write `rayinfluence evaluate "
            "CONFIG` or `rayinfluence evaluate damping CONFIG`."
        )
    config = configured(what[-1], runner, settings=settings)
    if config.evaluation is None:
        raise ConfigError(
            f"evaluation: {what[-1]} has no such section, which says how models are trained and "
            "what is measured. docs/quality.md has one to begin with."
        )
    from rayinfluence.dataflow import layout
    from rayinfluence.dataflow.stages.progress import ProgressLog
    from rayinfluence.evaluation.contenders import contenders
    from rayinfluence.evaluation.dampings import damped
    from rayinfluence.evaluation.evaluate import evaluate as measure
    from rayinfluence.report.evaluated import evaluation_parts
    from rayinfluence.storage.store import Store

    if of_dampings:
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
