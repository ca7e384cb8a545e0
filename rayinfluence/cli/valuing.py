"""`rayinfluence shapley`: what groups of sequences are worth, by training on coalitions of them."""

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
    from rayinfluence.storage.results.valued import Valued
    from rayinfluence.storage.store import Store


def shapley(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="The run's YAML file, or its run directory."),
    ],
    settings: Settings = None,
    runner: RunnerName = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say what sources, authors or other groups are worth, by training on some of them."""
    wanted = configured(config, runner, settings=settings)
    if wanted.evaluation is None or wanted.evaluation.shapley is None:
        raise ConfigError(
            f"evaluation.shapley: {config} has no such section, which says what the groups are and "
            "how much may be trained. docs/methods.md has one to begin with."
        )
    from rayinfluence.dataflow.stages.progress import ProgressLog
    from rayinfluence.evaluation.shapley.valuing import value_groups
    from rayinfluence.report.valued import valued_parts
    from rayinfluence.storage.store import Store

    found = value_groups(wanted, ProgressLog(quiet=quiet))
    page = _write(Store(wanted.run, wanted.storage.options(wanted.run)), found)
    show(Shown(valued_parts(found), {**found.to_json(), "page": page}), as_json)
    say(f"shapley: {page}", error=as_json)


def _write(store: Store, found: Valued) -> str:
    """Leave values, and their page, in the run directory; the address of the page."""
    from rayinfluence.dataflow.layout import VALUED, VALUED_PAGE
    from rayinfluence.report.valued import valued_page

    store.write(VALUED, json_text(found.to_json()).encode())
    store.write(VALUED_PAGE, valued_page(found).encode())
    return f"{store.url}/{VALUED_PAGE}"
