"""`rayinfluence evaluate leave-one-out`: results of models that were trained without something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayinfluence.cli.saying import say
from rayinfluence.display import Part, Shown, show
from rayinfluence.errors import ConfigError

if TYPE_CHECKING:
    from rayinfluence.config import RunConfig

#: Hits that are left out where nobody says how many.
_FIRST = 3


def leave_out(
    config: RunConfig,
    into: str,
    first: int | None,
    groups: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train without first hits of a run, or without groups, and leave what came as results.

    Args:
        config: of the run.
        into: the folder that results go to.
        first: hits that are left out, of each query, direction and method; None is 3.
        groups: the key of metadata whose values are left out in the place of hits.
        quiet: whether no progress is shown.
        as_json: whether values are printed, and no table.
    """
    from rayinfluence.addresses import expanded, why_no_address
    from rayinfluence.cli.reporting import glance
    from rayinfluence.cli.showing import all_results, say_report, write_report
    from rayinfluence.config_evaluation import GroupsConfig
    from rayinfluence.dataflow.stages.progress import ProgressLog
    from rayinfluence.evaluation.leave_groups_out import leave_groups_out
    from rayinfluence.evaluation.leave_one_out import leave_one_out
    from rayinfluence.report import Overview
    from rayinfluence.storage.store import Store

    if why := why_no_address(into):
        raise ConfigError(f"--into: {why}")
    folder, log = expanded(into), ProgressLog(quiet=quiet)
    store = Store(folder, config.storage.options(folder))
    assert config.evaluation is not None
    if groups is None:
        manifest = leave_one_out(config, _FIRST if first is None else first, store, log)
    else:
        wanted = config.evaluation.groups or GroupsConfig(key=groups)
        manifest = leave_groups_out(config, wanted.model_copy(update={"key": groups}), store, log)
    results = all_results(store)
    write_report(store, results)
    ((method, told),) = manifest["methods"].items()
    n, n_seeds = told["scanned_sequences"], manifest["seeds"]["n"]
    values = {
        "run": store.url,
        "results": manifest["fingerprint"],
        "sequences": n,
        "seeds": n_seeds,
        "resolved": told["resolved"],
        "warnings": manifest["warnings"],
    }
    if groups is None:
        parts: list[Part] = [
            f"{store.url}: {n:,} sequences, each left out alone, by {n_seeds} seeds"
        ]
    else:
        values |= {key: told[key] for key in ("group_by", "n_groups", "beside")}
        parts = glance(results, results[method], Overview.of(results[method]))
    show(Shown(parts, values), as_json)
    if groups is None:  # a glance has them
        for text in manifest["warnings"]:
            say(f"warning: {text}", error=True)
    say_report(store, error=as_json)
