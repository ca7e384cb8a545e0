"""Five gaps between leaving a row or a document out and its influence.

    .venv/bin/python tests/benchmarks/pbrf_gaps.py tables FOLDER [--only concrete] [--points 12]
    .venv/bin/python tests/benchmarks/pbrf_gaps.py text [--points 8]

Networks, tables and the small language model are those of pbrf.py. Training goes again through the
same batches in the same order without what is left out, from the random weights where it began, and
then from where it ended. Tables are Markdown; sizes are roots of mean squares over pairs, in nats.
`text` minimises over all documents, which takes hours on a processor.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pbrf import SIZES, TABLES, TRAINING, Bench, of_table, of_text, rows_of, trained
from rich.console import Console
from torch import nn
from transformers import GPT2LMHeadModel

from rayinfluence.corpus.features import float_of
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.evaluation.new_model import new_model
from rayinfluence.evaluation.pbrf.gap import STEPS, GapReport, Retrain, gap_report
from rayinfluence.evaluation.pbrf.moving import tracked_weights
from rayinfluence.evaluation.pbrf.response import Responses
from rayinfluence.evaluation.training import train
from rayinfluence.model.load import freeze
from rayinfluence.model.row_task import row_task

#: Of its runs.
SCAN = {"rank": "dense"}


def of_rows(bench: Bench, rows: np.ndarray, epochs: int) -> Retrain:
    """Trains networks on rows again."""
    here = bench.run.replica.model
    tokens = dict(
        zip(*(bench.table[c].to_pylist() for c in ("sequence_id", "tokens")), strict=True)
    )
    task = row_task(here)
    assert task is not None

    def retrain(sequence_id: int, warm: bool) -> nn.Module:
        numbers = np.array([float_of(token) for token in tokens[sequence_id]])
        row = int(np.abs(rows - numbers).sum(axis=1).argmin())
        found = trained(rows, epochs, row, here if warm else None)
        return task.given_to(freeze(found))

    return retrain


def of_documents(bench: Bench) -> Retrain:
    """Trains the language model on documents again; the divisors of batches stay."""
    rows = [one.tolist() for one in bench.table["tokens"].to_numpy()]
    ids = bench.table["sequence_id"].to_pylist()
    weights = bench.run.replica.model.state_dict()

    def retrain(sequence_id: int, warm: bool) -> nn.Module:
        model: GPT2LMHeadModel = new_model(SIZES, 0)
        if warm:
            model.load_state_dict({name: one.float() for name, one in weights.items()})
        counts = [float(one != sequence_id) for one in ids]
        train(model, rows, 0, TRAINING, weights_N=counts)
        return freeze(model)

    return retrain


def reported(bench: Bench, retrain: Retrain, n_points: int, n_queries: int) -> GapReport:
    """The chain of some rows, drawn by Philox."""
    generator = np.random.Generator(np.random.Philox(key=0))
    places = np.sort(generator.permutation(len(bench.table))[:n_points])
    rows = [bench.table.slice(int(place), 1) for place in places]
    queries = bench.run.queries[:n_queries]
    scores = bench.scores(bench.by_method("ekfac", queries))
    epsilon = -1 / bench.run.n_training_sequences
    predicted = epsilon * np.stack([scores[row["sequence_id"][0].as_py()] for row in rows])
    responses = Responses(
        bench.run.replica,
        pa.table(bench.table),
        queries,
        lambda twin: tracked_weights(twin.modules, bench.ekfac),
    )
    return gap_report(responses, bench.run.replica, rows, epsilon, retrain, predicted)


def shown(found: GapReport) -> None:
    """Print both tables."""
    print("\n| response | size | Pearson with leaving out and training from scratch |")
    print("|---|---|---|")
    for name, values, correlation in zip(STEPS, found.steps, found.with_first(), strict=True):
        print(f"| {name} | {np.sqrt((values**2).mean()):.2g} | {correlation:.2f} |")
    print("\n| gap | size | Pearson of both sides |")
    print("|---|---|---|")
    for gap in found.gaps:
        print(f"| {gap.name} | {gap.size:.2g} | {gap.correlation:.2f} |")
    print(f"\ngradient left of the proximal loss: at most {found.left_Z.max():.2g}\n", flush=True)


def main() -> None:
    """Print all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["tables", "text"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=150, help="of networks on tables")
    options = parser.parse_args()
    if options.what == "tables" and options.folder is None:
        sys.exit("name the folder that holds concrete/ and energy/.")
    torch.set_num_threads(1)
    names = [options.only] if options.only else TABLES
    for name in names if options.what == "tables" else ["text"]:
        with tempfile.TemporaryDirectory() as place:
            sys.path.insert(0, place)
            if name == "text":
                config = of_text(Path(place), options.queries, SCAN)
            else:
                config = of_table(
                    Path(place), options.folder, name, options.queries, options.epochs, SCAN
                )
            with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
                run.begin(needs_queries=True)
                run.tokenize()
                bench = Bench(run)
                retrain = (
                    of_documents(bench)
                    if name == "text"
                    else of_rows(bench, rows_of(options.folder, name)[0], options.epochs)
                )
                shown(reported(bench, retrain, options.points, options.queries))


if __name__ == "__main__":
    main()
