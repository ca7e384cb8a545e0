"""Values by draws beside those by all coalitions, and sums of scores beside both.

    rayinfluence shapley runs/quality/shapley/config.yaml      # trains
    rayinfluence run runs/quality/shapley/config.yaml          # scores of the model that it made
    python tests/benchmarks/shapley_figures.py [--folder runs/quality]

Nothing more is trained: draws are of coalitions that are there, and drawn again with 40 seeds.
Differences are of means over seeds of training, as shares of |v(all) - v(none)| of their utility;
an interval that holds is one of draws and seeds that has the value by all coalitions of the same
seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality_banks import PLACE

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.evaluation.farm import open_farm
from rayinfluence.evaluation.shapley.estimators import (
    Coalition,
    Enumeration,
    Estimator,
    Permutations,
    SampleReuse,
    Stopping,
    everybody,
    play,
)
from rayinfluence.evaluation.shapley.game import by_training, columns_of, players_of
from rayinfluence.evaluation.shapley.semivalues import BANZHAF, SHAPLEY, Semivalue
from rayinfluence.evaluation.shapley.sureness import group_values
from rayinfluence.evaluation.shapley.valuing import value_groups

#: Draws at most, of orders and of coins alike, and how often they are drawn again.
DRAWS, SEEDS = (16, 50, 200), 40
Known = Mapping[Coalition, NDArray[np.float64]]


def utilities(config: RunConfig) -> tuple[tuple[str, ...], Known]:
    """Names of groups, and utilities of all coalitions."""
    assert config.evaluation is not None
    assert config.evaluation.shapley is not None
    wanted = config.evaluation.shapley
    with open_farm(config, ProgressLog(quiet=True), wanted.validation) as farm:
        players, columns = players_of(farm, wanted), columns_of(farm.queries, wanted)
        whole = Enumeration(SHAPLEY, len(players.names))
        return players.names, play([whole], by_training(farm, players, columns))


def compared(estimator: Estimator, known: Known) -> tuple[float, float]:
    """The median difference as a share of the span, and the share of intervals that hold."""
    n = estimator.n_players
    span_Q = np.abs((known[everybody(n)] - known[0]).mean(axis=0))
    exact_GQ = Enumeration(estimator.semivalue, n).found(known).values_RGQ.mean(axis=0)
    found = estimator.found(known)
    ends = [[(cell.low, cell.high) for cell in row] for row in group_values(found)]
    low_GQ, high_GQ = np.moveaxis(np.array(ends, dtype=np.float64), 2, 0)
    held = (low_GQ <= exact_GQ) & (exact_GQ <= high_GQ)
    differences_GQ = np.abs(found.values_RGQ.mean(axis=0) - exact_GQ) / span_Q
    return float(np.median(differences_GQ)), float(held.mean())


def main() -> None:
    """Print the figures, and write values by all coalitions as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(PLACE))
    folder = parser.parse_args().folder / "shapley"
    config = RunConfig.load(folder / "config.yaml")
    values = config.model_dump()
    values["evaluation"]["shapley"] |= {"by": "enumeration", "neighbours": 10}
    exact = value_groups(RunConfig.parse(values), ProgressLog(quiet=True))
    (folder / "exact.json").write_text(json.dumps(exact.to_json(), indent=1), encoding="utf-8")
    for sums in exact.beside:
        agreed = {
            name: one and f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})"
            for name, one in sums.agreement.items()
        }
        print(f"sums of {sums.method}: {agreed}")
    names, known = utilities(config)
    n = len(names)
    for draws in DRAWS:
        stopping = Stopping(draws, 0)
        found: dict[str, list[tuple[float, float]]] = {}
        for draw in range(SEEDS):
            for one in (
                Permutations(SHAPLEY, n, stopping, 0.0, draw),
                Permutations(Semivalue("beta", 4, 1), n, stopping, 0.0, draw),
                SampleReuse(BANZHAF, names, stopping, draw),
            ):
                found.setdefault(one.semivalue.name, []).append(compared(one, known))
        for name, rows in found.items():
            median, held = np.mean(rows, axis=0)
            print(f"{name}, {draws} draws: {median:.3f} of the span; {held:.0%} of intervals hold")


if __name__ == "__main__":
    main()
