"""How few trainings choose a damping: small banks beside what is left of large ones.

    python tests/benchmarks/damping_proxy.py runs/quality/tuned/config.yaml [--dampings 1 0.1 ...]

Of each protocol of the bank, subsets of one seed are drawn, some at a time; the damping with the
highest LDS on them is chosen, and what it loses to the best one is measured on all other subsets,
with all seeds. Beside it stand what the default and the worst of the list lose. Scores are of the
first method of the configuration; nothing is trained that the bank has.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.evaluation.asked import Answers, protocols, weights
from rayinfluence.evaluation.contenders import Contender, alone, scored
from rayinfluence.evaluation.farm import Farm
from rayinfluence.evaluation.lds import linear_scores, predicted

DEFAULT = 0.1
SIZES = (4, 8, 16)
DRAWS = 400


def lds(
    said_DSQ: NDArray[np.float64], values_RSQ: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The mean LDS by damping [D] over some subsets."""
    return np.array(
        [np.nanmean(linear_scores(said_SQ[chosen], values_RSQ[:, chosen])) for said_SQ in said_DSQ]
    )


def losses(
    said_DSQ: NDArray[np.float64], values_RSQ: NDArray[np.float64], size: int, default: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What the chosen damping, the default and the worst lose to the best one, by draw."""
    generator = np.random.default_rng([0, size])
    found = []
    for _ in range(DRAWS):
        order = generator.permutation(values_RSQ.shape[1])
        seed = generator.integers(len(values_RSQ))
        small = lds(said_DSQ, values_RSQ[seed : seed + 1], order[:size])
        rest = lds(said_DSQ, values_RSQ, order[size:])
        best = rest.max()
        found.append((best - rest[small.argmax()], best - rest[default], best - rest.min()))
    chosen, by_default, worst = np.array(found).T
    return chosen, by_default, worst


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--dampings", type=float, nargs="+", default=[1, 0.1, 0.01, 0.001, 0.0001])
    options = parser.parse_args(arguments)
    config = RunConfig.load(options.config)
    method = config.scan.methods[0]
    with Run(config) as run:
        farm = Farm(run)
        answers = Answers(farm.asked_for())
        rivals = [
            Contender(f"{one:g}", method, alone(config.scan, method, one))
            for one in options.dampings
        ]
        scores = [scored(run, one, farm.queries, farm.ids_N)[0] for one in rivals]
        print("| protocol | subsets | chosen | within 0.01 | default | worst |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, rows in protocols(farm.planned()).items():
            weights_SN = weights(rows[0], farm.ids_N)
            said_DSQ = np.stack([predicted(weights_SN, one) for one in scores])
            values_RSQ = answers.by_seed(rows)
            for size in SIZES:
                chosen, default, worst = losses(
                    said_DSQ, values_RSQ, size, options.dampings.index(DEFAULT)
                )
                print(
                    f"| {name} | {size} | {chosen.mean():.3f} | {(chosen <= 0.01).mean():.0%} | "
                    f"{default.mean():.3f} | {worst.mean():.3f} |"
                )


if __name__ == "__main__":
    main()
