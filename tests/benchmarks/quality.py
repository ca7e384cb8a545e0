"""What a sample and a block layout cost in accuracy, on a run that exists.

    make demo && .venv/bin/python tests/benchmarks/quality.py .demo/run

Prints the error of the factors at doubling sample sizes, and for factors in blocks the memory of
their bases and how their scores agree with the unsplit ones.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "numerics"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from harness import all_scores, fit_factors, make_bank

from rayinfluence import RunConfig
from rayinfluence.corpus.corpus import read_split
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.dataflow.run import Run

_BLOCKS = (1, 2, 4, 8)
_SCORED = 500


def main() -> None:
    """Print both tables as Markdown."""
    values = json.loads((Path(sys.argv[1]) / "config.json").read_text())
    values["runner"]["name"] = "inline"
    torch.set_num_threads(1)
    with Run(RunConfig.parse(values)) as run, tempfile.TemporaryDirectory() as folder:
        tables = [read_split(run.corpus_store, split) for split in run.corpus.plan(2**17)]
        sequences = [tokens for rows in tables for tokens in sequences_of(rows)]
        factors = fit_factors(run.replica, sequences, Path(folder), lanes=8, error_bound=1e-9)
        print("| sequences | Lambda | scores, jackknife | scores, doubling |\n|---|---|---|---|")
        for one in factors.manifest["rounds"]:
            figures = (one["moments"], one["jackknife"], one["doubling"])
            cells = ["" if figure is None else f"{figure:.2%}" for figure in figures]
            print(f"| {one['n_sequences']:,} | {' | '.join(cells)} |")

        print("\n| blocks | bases, MiB | Pearson, median (least) of queries |\n|---|---|---|")
        some = sequences[:: max(1, len(sequences) // _SCORED)]
        exact: np.ndarray | None = None
        for n_blocks in _BLOCKS:
            place = Path(folder) / str(n_blocks)
            factors = fit_factors(run.replica, sequences, place, lanes=8, blocks=n_blocks)
            size = sum(t.nbytes for n, t in factors.tensors().items() if "_basis." in n) / 2**20
            bank = make_bank(run.replica, factors, run.queries, place, rank=32)
            scores = all_scores(run.replica, bank, some).numpy()
            exact = scores if exact is None else exact
            pearson = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores.T, exact.T, strict=True)]
            print(f"| {n_blocks} | {size:.1f} | {np.median(pearson):.3f} ({min(pearson):.3f}) |")


if __name__ == "__main__":
    main()
