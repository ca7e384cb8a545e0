"""What a sample and a block layout cost in accuracy, on the demo's run and on a wider model's.

    make demo && .venv/bin/python tests/benchmarks/quality.py .demo/run [--width 256]

With a width, a GPT-2 of that width and four layers is first trained on the demo's documents, into
<run>-<width>. Prints the error of the factors at doubling sample sizes, and for factors in blocks
the memory of their bases and how their scores agree with the unsplit ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "numerics"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from harness import all_scores, basis_tensors, fit_factors, make_bank

from rayinfluence import RunConfig
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.corpus.splits import read_split
from rayinfluence.dataflow.compute.stopping import FIGURES
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages import sample
from rayinfluence.demo.tiny_lm import ensure_model
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.training import TrainingSettings

_BLOCKS = (1, 2, 4, 8)
_SCORED = 500


def wider(values: dict[str, Any], width: int) -> dict[str, Any]:
    """The configuration of the same run with a wider model, which is trained."""
    run = Path(f"{values['run']}-{width}")
    documents = [
        json.loads(line)["text"]
        for path in values["corpus"]["documents"]
        for line in Path(path).read_text().splitlines()
    ]
    ensure_model(
        run / "model",
        documents,
        model=ModelSettings(width=width, layers=4),
        training=TrainingSettings(epochs=4, learning_rate=1e-3),
    )
    return {**values, "run": str(run), "model": str(run / "model")}


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--width", type=int)
    options = parser.parse_args()
    values = json.loads((options.run / "config.json").read_text())
    values["runner"]["name"] = "inline"
    if options.width:
        values = wider(values, options.width)
    torch.set_num_threads(1)
    with Run(RunConfig.parse(values)) as run, tempfile.TemporaryDirectory() as folder:
        run.tokenize()
        tables = [read_split(run.corpus_store, split) for split in run.corpus.plan(2**17)]
        sequences = [tokens for rows in tables for tokens in sequences_of(rows)]
        sample._LOWEST_LIMIT = 0.0  # the table is of every size
        factors = fit_factors(run.replica, sequences, Path(folder), lanes=8, error_bound=1e-9)
        print(
            "| sequences | Lambda | jackknife | parts | bias | limit |\n|---|---|---|---|---|---|"
        )
        for one in factors.manifest["rounds"]:
            figures = [one[name] for name in FIGURES]
            cells = ["" if figure is None else f"{figure:.2%}" for figure in figures]
            print(f"| {one['n_sequences']:,} | {' | '.join(cells)} |")

        print("\n| blocks | bases, MiB | Pearson, median (least) of queries |\n|---|---|---|")
        some = sequences[:: max(1, len(sequences) // _SCORED)]
        exact: np.ndarray | None = None
        for n_blocks in _BLOCKS:
            place = Path(folder) / str(n_blocks)
            factors = fit_factors(run.replica, sequences, place, lanes=8, blocks=n_blocks)
            size = sum(t.nbytes for t in basis_tensors(factors).values()) / 2**20
            bank = make_bank(run.replica, factors, run.queries, place, rank=32)
            scores = all_scores(run.replica, bank, some).numpy()
            exact = scores if exact is None else exact
            pearson = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores.T, exact.T, strict=True)]
            print(f"| {n_blocks} | {size:.1f} | {np.median(pearson):.3f} ({min(pearson):.3f}) |")


if __name__ == "__main__":
    main()
