"""What solvers leave unsolved after so many passes over a sample, on the demo's model.

    .venv/bin/python tests/benchmarks/solvers.py FOLDER [--sequences 256] [--queries 4] [--small]

FOLDER gets the demo, if it has none. Of some of its queries the table says, for each solver and
number of steps, how many passes over the sample a query took (of the series with those that measure
their scale, which all queries share, and of Arnoldi with those of its space), and the median of
|v - (G + lambda I) x| / |v| and of |x - x*| / |x*|, with x* what pcg has at a residual of 1e-4.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rayinfluence.corpus.splits import read_rows
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.curvature.iterative.solvers import IterativeSolver, run, started
from rayinfluence.curvature.iterative.system import State, begin
from rayinfluence.curvature.iterative.vectors import Vectors, norm, plus
from rayinfluence.dataflow.compute.refining import Refining, dealt, lane_count
from rayinfluence.dataflow.compute.scoring import query_gradient
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.scan import by_split
from rayinfluence.dataflow.stages.select import sampled
from rayinfluence.demo.corpus import write_corpus
from rayinfluence.demo.run import SMALL, DemoSize, demo_config, run_demo
from rayinfluence.model.curvature_products import Curvature

#: Steps by solver.
TRIED = {
    "pcg": (3, 10, 30),
    "cg": (3, 10, 30, 100),
    "astra": (8, 32, 128),
    "lissa": (32, 128, 512),
    "arnoldi": (10, 30),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--curvature", choices=["gauss_newton", "hessian"], default="gauss_newton")
    asked = parser.parse_args()
    size = SMALL if asked.small else DemoSize()
    run_demo(asked.folder, "inline", size=size)
    corpus = write_corpus(
        asked.folder / "data",
        0,
        subjects=size.subjects,
        plain_documents=size.plain_documents,
        queried_facts=size.queried_facts,
    )
    console = Console(width=120)
    with Run(demo_config(asked.folder, corpus, "inline", 0)) as opened:
        work, gradients = prepared(opened, asked.sequences, asked.queries, asked.curvature)
        compare(work, gradients, console)


def prepared(
    opened: Run, n_sequences: int, n_queries: int, curvature: Curvature
) -> tuple[Refining, list[dict[str, Tensor]]]:
    """A sample with factors, and gradients of queries."""
    factors = opened.fit().by_module()
    operators = {name: EKFAC(one, name) for name, one in factors.items()}
    splits = opened.corpus.plan(2**15)
    ids = sampled(splits, n_sequences, 2)
    tables = [read_rows(opened.corpus_store, one, some) for one, some in by_split(splits, ids)]
    lanes = dealt(pa.concat_tables(tables), lane_count(len(ids)), 0)
    work = Refining(opened.replica, operators, lanes, curvature)
    queries = opened.queries[:n_queries]
    return work, [work.gradient(query_gradient(opened.replica, one)) for one in queries]


def compare(work: Refining, gradients: Sequence[dict[str, Tensor]], console: Console) -> None:
    """Solve by all of them."""

    def products(directions: Sequence[Vectors], part: int | None) -> list[Vectors]:
        lanes = (work.lane_sums(one, directions, lambda n: None) for one in work.lanes_of(part))
        return work.products(lanes, len(directions))

    def solved(solver: IterativeSolver) -> tuple[list[State], float]:
        system, before = work.system, None
        if once := solver.preparation():
            first = begin(system, once, State().vectors(gradient=work.zeros()))
            before = run(system, once, first, products)
        phases = solver.phases(system, before)
        states = [run(system, phases, started(system, phases, one), products) for one in gradients]
        return states, 0.0 if before is None else before.passes

    exact, _ = solved(IterativeSolver("pcg", 150, 1e-4))
    said = [f"{one.history[-1]:.1e} after {one.steps} steps" for one in exact]
    console.print(f"x*, by pcg: {', '.join(said)}")
    table = Table("solver", "steps", "passes", "residual", "distance", "seconds a query")
    ekfac = [one.history[0] for one in exact]
    away = [_distance(work.system.inverse(one), x) for one, x in zip(gradients, exact, strict=True)]
    table.add_row("ekfac", "0", "0", f"{np.median(ekfac):.3g}", f"{np.median(away):.3g}", "")
    for name, tried in TRIED.items():
        for steps in tried:
            started_at = time.monotonic()
            states, before = solved(IterativeSolver(name, steps, 1e-4))
            seconds = (time.monotonic() - started_at) / len(states)
            # The last pass of a query only measures.
            passes = np.mean([one.passes - 1 for one in states]) + before
            residual = np.median([one.history[-1] for one in states])
            distances = [
                _distance(one.vector("solution"), x) for one, x in zip(states, exact, strict=True)
            ]
            told = f"{passes:.1f}", f"{residual:.3g}", f"{np.median(distances):.3g}"
            table.add_row(name, str(steps), *told, f"{seconds:.1f}")
    console.print(table)


def _distance(solution: Vectors, exact: State) -> float:
    x = exact.vector("solution")
    return norm(plus(solution, -1.0, x)) / norm(x)


if __name__ == "__main__":
    main()
