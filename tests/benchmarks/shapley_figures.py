"""Values by draws beside those by all coalitions, and sums of scores beside both.

    rayinfluence shapley runs/quality/shapley/config.yaml      # trains
    rayinfluence run runs/quality/shapley/config.yaml          # scores of the model that it made
    python tests/benchmarks/shapley_figures.py [--folder runs/quality]

Nothing more is trained: draws are of coalitions that are there. Differences are of means over
seeds, as shares of |v(all) - v(none)| of their utility; an interval that holds is one of draws and
seeds that has the value by all coalitions of the same seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from quality_banks import PLACE

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.evaluation.shapley.valuing import value_groups
from rayinfluence.storage.results.valued import GroupValues, Valued

#: Draws at most, of orders and of coins alike.
DRAWS = (16, 50, 200)


def found_by(config: RunConfig, **shapley: Any) -> Valued:
    """Values with other keys of the section."""
    values = config.model_dump()
    values["evaluation"]["shapley"].update(shapley)
    return value_groups(RunConfig.parse(values), ProgressLog(quiet=True))


def compared(exact: Valued, whole: GroupValues, drawn: GroupValues) -> tuple[float, float, float]:
    """The mean and the largest difference over the mean span, and the share of intervals."""
    differences, held = [], []
    for g in range(len(exact.groups)):
        for u, utility in enumerate(exact.utilities):
            a, b = whole.values[g][u], drawn.values[g][u]
            assert a is not None
            assert b is not None
            assert b.low is not None
            assert b.high is not None
            span = abs(utility.everything - utility.nothing)
            differences.append(abs(a.mean - b.mean) / span)
            held.append(b.low <= a.mean <= b.high)
    return float(np.median(differences)), float(np.max(differences)), float(np.mean(held))


def main() -> None:
    """Print the figures, and write those by all coalitions as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(PLACE))
    folder = parser.parse_args().folder / "shapley"
    config = RunConfig.load(folder / "config.yaml")
    exact = found_by(config, by="enumeration", neighbours=10)
    (folder / "exact.json").write_text(json.dumps(exact.to_json(), indent=1), encoding="utf-8")
    for sums in exact.beside:
        agreed = {
            name: one and f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})"
            for name, one in sums.agreement.items()
        }
        print(f"sums of {sums.method}: {agreed}")
    for n in DRAWS:
        drawn = found_by(
            config, by="sampling", permutations=n, draws=n, error=0, tolerance=0, neighbours=None
        )
        for whole, one in zip(exact.methods, drawn.methods, strict=False):
            median, most, held = compared(exact, whole, one)
            print(
                f"{one.name}, {n} {one.how}: median {median:.3f}, largest {most:.3f} of the span; "
                f"{held:.0%} of intervals hold"
            )


if __name__ == "__main__":
    main()
