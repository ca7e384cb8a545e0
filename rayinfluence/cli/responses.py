"""`rayinfluence evaluate pbrf`: predicted changes beside those of weights that are moved."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rayinfluence.cli.opening import opened
from rayinfluence.config import RunConfig
from rayinfluence.config_evaluation import ResponseConfig
from rayinfluence.display import Column, Shown, Table, show

if TYPE_CHECKING:
    from rayinfluence.evaluation.pbrf.report import Pbrf
    from rayinfluence.storage.results.evaluated import Interval


def show_responses(config: RunConfig, quiet: bool, as_json: bool) -> None:
    """Take sequences out by moving the weights, and show what each method predicted of it."""
    wanted = config.evaluation.pbrf if config.evaluation else ResponseConfig()
    with opened(config, needs_queries=True, quiet=quiet) as run:
        from rayinfluence.evaluation.pbrf.report import pbrf_report

        found = pbrf_report(run, wanted.sequences, wanted.queries)
    values = _values(found)
    show(Shown([_table(values), _said(found)], values), as_json)


def _values(found: Pbrf) -> dict[str, Any]:
    """As JSON has it: means over queries with intervals, and all that they are of."""
    from rayinfluence.evaluation.intervals import mean_interval

    def interval(one: Interval | None) -> dict[str, Any] | None:
        return None if one is None else asdict(one)

    return {
        "sequence_ids": list(found.sequence_ids),
        "query_ids": list(found.query_ids),
        "epsilon": found.epsilon,
        "n_basis": found.n_basis,
        "gradients": found.gradients_Z.tolist(),
        "unfinished": found.unfinished_Z.tolist(),
        "responses": found.responses_ZQ.tolist(),
        "methods": [
            {
                "method": name,
                "pearson": interval(mean_interval(found.pearson(name))),
                "spearman": interval(mean_interval(found.spearman(name))),
                "predicted": predicted_ZQ.tolist(),
            }
            for name, predicted_ZQ in found.predicted_ZQ.items()
        ],
    }


def _table(values: dict[str, Any]) -> Table:
    rows = [
        (one["method"], _ranged(one["pearson"]), _ranged(one["spearman"]))
        for one in values["methods"]
    ]
    columns = (Column("method"), Column("Pearson", number=True), Column("Spearman", number=True))
    return Table(columns, rows, "Predicted changes beside proximal Bregman responses")


def _said(found: Pbrf) -> str:
    n, n_queries = len(found.sequence_ids), len(found.query_ids)
    n_unfinished = int(found.unfinished_Z.sum())
    unfinished = (
        f" {n_unfinished} of them did not converge, and are among them as far as they came."
        if n_unfinished
        else ""
    )
    return (
        f"{n} sequences were taken out of {found.n_basis:,}, one at a time, by moving the tracked "
        f"weights to the minimum of the proximal Bregman objective (gradients fell to "
        f"{found.gradients_Z.max():.1%} at most), and {n_queries} queries asked before and after. "
        "Correlations are over sequences, means over queries, in brackets 95 % of draws."
        f"{unfinished} They say whether the question of influence functions is answered, not "
        "whether training again would change as much."
    )


def _ranged(one: dict[str, Any] | None) -> str:
    if one is None:
        return "none"
    if one["low"] is None:
        return f"{one['mean']:.2f}"
    return f"{one['mean']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
