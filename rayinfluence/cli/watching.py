"""Commands that look at a run directory, or delete from it: status, clean."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayinfluence.cli.options import AsJson, EndpointUrl, RunPath, Settings
from rayinfluence.cli.saying import say
from rayinfluence.dataflow.stage_names import STAGES
from rayinfluence.display import Column, Shown, Table, show
from rayinfluence.errors import ConfigError, StageError
from rayinfluence.text import visible_line

if TYPE_CHECKING:
    from rayinfluence.dataflow.places import RunPlace
    from rayinfluence.dataflow.status import RunStatus

#: What `clean` takes.
_STAGES = " or ".join((", ".join([*STAGES][:-1]), [*STAGES][-1]))
#: Of a run that is not done, a silence as long as this is said.
_SILENCE_SECONDS = 60


def status(
    run_directory: RunPath,
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until it is done.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 10,
    as_json: AsJson = False,
) -> None:
    """Say how far a run is, what from what, from its directory alone."""
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.dataflow.status import status as look

    before, moved = None, time.time()
    while True:
        place = run_place(run_directory, endpoint_url, settings or ())
        found, now = look(place.store, place.corpus), time.time()
        done = found.is_done(now, place.stall_seconds)
        if not as_json or done or not watch:  # as JSON there is one object, the last
            show(_shown(found, place, done), as_json)
        if not done and found.written is not None and now - found.written >= _SILENCE_SECONDS:
            say(f"nothing has been written {_since(found.written, now)}", error=as_json)
        if done or not watch:
            break
        # Whose clock is another's may tell any time; that something has changed is sure.
        moved, before = (moved if found == before else now), found
        if now - max(moved, found.written or 0) >= place.stall_seconds:
            raise StageError(
                f"nothing has been written to {place.store.url} "
                + ("yet" if found.written is None else _since(found.written, now))
                + f", and for `runner.stall_seconds` ({place.stall_seconds:,g} s) it was watched "
                "in vain. Look whether the process or the Ray job still works on it, and watch it "
                "again if so; if it is gone, the same command goes on with the run."
            )
        time.sleep(every)


def _shown(found: RunStatus, place: RunPlace, done: bool) -> Shown:
    rows = []
    for stage in found.stages:
        total = "" if stage.total is None else f"/{stage.total}"
        rows.append((stage.stage, f"{stage.done}{total}", stage.remark))
    columns = (Column("stage"), Column("done"), Column("", wide=True))
    values: dict[str, Any] = {
        "run": place.store.url,
        "done": done,
        "current": found.current,
        "written": found.written,
        "objects": found.n_objects,
        "stages": [{**asdict(stage), "ended": stage.ended} for stage in found.stages],
    }
    return Shown([f"run {place.store.url}", Table(columns, rows)], values)


def clean(
    run_directory: RunPath,
    stage: Annotated[list[str], typer.Option(help=f"{_STAGES}; repeatable.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    settings: Settings = None,
    endpoint_url: EndpointUrl = None,
) -> None:
    """Delete what some stages wrote into a run directory."""
    from rayinfluence.dataflow.places import run_place
    from rayinfluence.dataflow.status import clean as delete

    for name in stage:
        if name not in STAGES:
            raise ConfigError(f"--stage {name}: the stages are {', '.join(STAGES)}.")
    store = run_place(run_directory, endpoint_url, settings or ()).store
    question = visible_line(f"Delete {', '.join(stage)} from {store.url}?")
    if not (yes or typer.confirm(question)):
        raise ConfigError("nothing was deleted. --yes deletes without a question.")
    typer.echo(f"{delete(store, stage)} objects deleted")


def _since(written: float, now: float) -> str:
    """When something was written last, and how long that is ago."""
    ago, unit = now - written, "s"
    for size, larger in ((60, "min"), (60, "h"), (24, "days")):
        if ago >= 2 * size:
            ago, unit = ago / size, larger
        else:
            break
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(written))
    return f"since {when} ({ago:.0f} {unit} ago)"
