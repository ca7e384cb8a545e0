"""Influences beside proximal Bregman responses: networks on tables, and a small language model.

    .venv/bin/python tests/benchmarks/pbrf.py tables FOLDER [--points 500] [--queries 10]
    .venv/bin/python tests/benchmarks/pbrf.py text [--points 20] [--queries 5]

FOLDER holds concrete/ and energy/ with data.csv.gz and test_mask.csv.gz, as github.com/treforevans/
uci_datasets has them (UCI repository, CC BY 4.0). On each a network of two layers of 128 tanh is
trained, and some training rows are taken out: weights are moved to the minimum of the proximal
Bregman objective, for the logarithm of the density of some test rows (Grosse et al. 2023, section
5.1 and figure 6). `text` does the same with a small GPT-2 on documents of the demo. Then seconds
for 1, 10 and 100 queries, fitting included (their figure 7). Tables are Markdown.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pbrf_solvers import Curvature
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from rayinfluence.config import RunConfig
from rayinfluence.corpus.queries import EncodedQuery
from rayinfluence.corpus.splits import read_split
from rayinfluence.curvature.ekfac import EKFAC
from rayinfluence.curvature.iterative.solvers import IterativeSolver
from rayinfluence.dataflow.compute.rescoring import whole_banks
from rayinfluence.dataflow.compute.scoring import score_split
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.demo.corpus import write_corpus
from rayinfluence.demo.tiny_lm import ensure_model
from rayinfluence.errors import NumericsError
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.pbrf.report import Pbrf, pbrf_report
from rayinfluence.evaluation.training import TrainingSettings
from rayinfluence.influence.bank import QueryBank
from rayinfluence.influence.correlations import pearson, spearman
from rayinfluence.methods.method import Curvature as Factors
from rayinfluence.methods.method import Fitted
from rayinfluence.methods.registry import solving

TABLES = ("concrete", "energy")
NETWORK = """
from torch import nn


def build():
    return nn.Sequential(
        nn.Linear({}, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 1)
    )
"""
SOLVERS = {
    "CG": IterativeSolver("cg", 400, 1e-3),
    "CG, preconditioned by EK-FAC": IterativeSolver("pcg", 400, 1e-3),
    "LiSSA": IterativeSolver("lissa", 2000),
    "ASTRA": IterativeSolver("astra", 400),
}
METHODS = {
    "ekfac": "EK-FAC",
    "kfac": "K-FAC",
    "gradient_product": "gradient product",
    "identity": "gradient product, each layer's over its lambda",
}


def rows_of(folder: Path, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Training and test rows of the first fold, by the training rows' mean and deviation."""
    place = folder / name
    if not (place / "data.csv.gz").exists():
        sys.exit(
            f"there is no {place}/data.csv.gz: fetch it with test_mask.csv.gz from "
            "github.com/treforevans/uci_datasets (CC BY 4.0), and name the folder above."
        )
    with gzip.open(place / "data.csv.gz") as data, gzip.open(place / "test_mask.csv.gz") as mask:
        table = np.loadtxt(data, delimiter=",")
        is_test = np.loadtxt(mask, delimiter=",")[:, 0] > 0
    train = table[~is_test]
    varies = train.std(axis=0) > 0
    scaled = (table[:, varies] - train[:, varies].mean(axis=0)) / train[:, varies].std(axis=0)
    return scaled[~is_test], scaled[is_test]


def trained(
    rows: NDArray[np.float64],
    epochs: int,
    left_out: int | None = None,
    start: nn.Module | None = None,
) -> nn.Sequential:
    """A network by SGD, batches of 128 in an order that nothing else decides.

    Args:
        rows: features and a target.
        epochs: over all rows.
        left_out: the row whose loss does not count; the divisor of its batch stays.
        start: where to begin; else at random, always the same.
    """
    torch.manual_seed(0)
    space: dict[str, Any] = {}
    exec(NETWORK.format(rows.shape[1] - 1), space)
    network: nn.Sequential = space["build"]()
    if start is not None:
        network.load_state_dict(start.state_dict())
    features, targets = torch.from_numpy(rows).float().split([rows.shape[1] - 1, 1], dim=1)
    counts = torch.ones_like(targets)
    if left_out is not None:
        counts[left_out] = 0
    optimiser = torch.optim.SGD(network.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-5)
    for _ in range(epochs):
        for some in torch.randperm(len(rows)).split(128):
            loss = ((network(features[some]) - targets[some]).square() * counts[some]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network


def of_table(
    place: Path, folder: Path, name: str, n_queries: int, epochs: int, scan: dict[str, Any]
) -> RunConfig:
    """A run on a network and its rows."""
    train, test = rows_of(folder, name)
    network = trained(train, epochs)
    features, targets = torch.from_numpy(train).float().split([train.shape[1] - 1, 1], dim=1)
    with torch.no_grad():
        loss = float((network(features) - targets).square().mean())
    columns = [f"x{i}" for i in range(train.shape[1] - 1)]
    model = place / name
    model.mkdir()
    save_file(network.state_dict(), model / "model.safetensors")
    module = f"network_of_{name}"
    (place / f"{module}.py").write_text(NETWORK.format(len(columns)))
    np.savetxt(
        model / "rows.csv", train, delimiter=",", header=",".join([*columns, "y"]), comments=""
    )
    queries = [
        {"query_id": str(place), "features": row[:-1].tolist(), "target": row[-1]}
        for place, row in enumerate(test[:n_queries])
    ]
    (model / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    print(f"{name}: {len(train)} rows, mean squared error {loss:.3f} of 1", flush=True)
    return RunConfig.parse(
        {
            "run": str(model / "run"),
            "model": str(model),
            "model_function": f"{module}:build",
            "objective": "regression",
            "corpus": {
                "documents": [str(model / "rows.csv")],
                "feature_columns": columns,
                "label_column": "y",
            },
            "queries": str(model / "queries.jsonl"),
            "dtype": "float64",
            "device": "cpu",
            "fit": {"error_bound": None},
            "scan": scan,
            "runner": {"name": "inline"},
            "batch_tokens": 2**17,
        }
    )


#: Of the small language model.
SIZES = ModelSettings(vocabulary=512, context=192, width=32)
TRAINING = TrainingSettings(epochs=20, threads=1)


def of_text(place: Path, n_queries: int, scan: dict[str, Any]) -> RunConfig:
    """A run on a small GPT-2 and documents of the demo."""
    corpus = write_corpus(
        place / "data", 0, subjects=12, plain_documents=250, queried_facts=n_queries
    )
    texts = [document.text for document in corpus.documents]
    done = ensure_model(
        place / "model", texts, model=SIZES, training=TRAINING, console=Console(quiet=True)
    )
    print(
        f"text: {len(texts)} documents, {done.tokens:,} tokens, {done.parameters:,} parameters, "
        f"{done.loss:.2f} nats a token",
        flush=True,
    )
    asked = [
        json.dumps({"query_id": q.query_id, "prompt": q.prompt, "completion": q.completion})
        for q in corpus.queries
        if not q.held_out
    ]
    (place / "queries.jsonl").write_text("\n".join(asked[:n_queries]))
    return RunConfig.parse(
        {
            "run": str(place / "run"),
            "model": str(place / "model"),
            "queries": str(place / "queries.jsonl"),
            "corpus": {"documents": [str(corpus.documents_path)]},
            "fit": {"error_bound": None},
            "device": "cpu",
            "dtype": "float64",
            "scan": scan,
            "runner": {"name": "inline"},
        }
    )


class Bench:
    """One run with its factors, and what methods and solvers make of it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        factors = run.fit("ekfac")
        of_module = factors.by_module()
        self._curvatures = {
            name: Factors(
                one,
                factors.n_routed.get(name, factors.n_tokens),
                factors.n_sequences,
                run.config.scan.damping_scale,
                None,
            )
            for name, one in of_module.items()
        }
        splits = run.corpus.plan(run.numerics.split_tokens)
        #: Of all sequences.
        self.table = pa.concat_tables([read_split(run.corpus_store, one) for one in splits])
        self.ekfac: dict[str, EKFAC] = {name: self._solver("ekfac", name) for name in of_module}
        self.curvature = Curvature(run.replica, self.table, self.ekfac)

    def _solver(self, method: str, name: str) -> Any:
        shape = self.run.replica.shapes[name]
        return solving(method).solver(Fitted(name, shape.bias, self._curvatures[name]))

    def by_method(self, method: str, queries: Sequence[EncodedQuery]) -> QueryBank:
        """Queries as a method has them."""
        solvers = [partial(self._solver, method)]
        (bank,) = whole_banks(self.run.replica, solvers, queries, [False])
        return bank

    def scores(self, bank: QueryBank) -> dict[int, NDArray[np.float64]]:
        """By sequence id [Q]."""
        (scored,) = score_split(self.run.replica, [bank], self.table)
        return dict(zip(scored.ids_N.tolist(), scored.scores_NQ, strict=True))


def compared(bench: Bench, found: Pbrf) -> dict[str, float]:
    """Print how methods and solvers agree with responses; seconds of solvers, of a query."""
    print("\n| method | Pearson | lowest and highest query | Spearman | residual |")
    print("|---|---|---|---|---|")
    for name, said in METHODS.items():
        line(said, found.predicted_ZQ[name], found.responses_ZQ, None)
    queries, seconds = bench.run.queries[: len(found.query_ids)], {}
    for said, solver in SOLVERS.items():
        started = time.process_time()
        try:
            solved = bench.curvature.solved(solver, queries)
        except NumericsError as error:
            print(f"| {said} | {error} | | | |")
            continue
        seconds[said] = (time.process_time() - started) / len(queries)
        scores = bench.scores(solved.bank)
        predicted = found.epsilon * np.stack([scores[one] for one in found.sequence_ids])
        line(said, predicted, found.responses_ZQ, max(solved.residuals_Q))
        if said == "CG":
            with_exact(bench, queries, scores)
    sizes = np.abs(found.responses_ZQ)
    print(
        f"\n{len(found.sequence_ids)} sequences, {len(found.query_ids)} queries, basis of "
        f"{found.n_basis}; median |response| {np.median(sizes):.2g} nats; evaluations "
        f"{found.evaluations_Z.mean():.0f} on average, {found.evaluations_Z.max()} at most\n",
        flush=True,
    )
    return seconds


def with_exact(
    bench: Bench, queries: Sequence[EncodedQuery], exact: dict[int, NDArray[np.float64]]
) -> None:
    """Print how methods agree with an exact solve over all sequences: heavy tails need many."""
    for method in ("ekfac", "kfac", "gradient_product"):
        scores = bench.scores(bench.by_method(method, queries))
        both = (np.stack([of[one] for one in exact]) for of in (scores, exact))
        found = pearson(*both)
        print(
            f"| {METHODS[method]}, with CG, all {len(exact)} | {found.mean():.2f} | "
            f"{found.min():.2f} to {found.max():.2f} | | |",
            flush=True,
        )


def line(
    said: str,
    predicted_ZQ: NDArray[np.float64],
    responses_ZQ: NDArray[np.float64],
    residual: float | None,
) -> None:
    """A row of the table."""
    found, ranked = pearson(predicted_ZQ, responses_ZQ), spearman(predicted_ZQ, responses_ZQ)
    left = "" if residual is None else f"{residual:.2g}"
    print(
        f"| {said} | {found.mean():.2f} | {found.min():.2f} to {found.max():.2f} | "
        f"{ranked.mean():.2f} | {left} |",
        flush=True,
    )


def timed(work: Callable[[], Any]) -> float:
    """Seconds of this process's CPU."""
    started = time.process_time()
    work()
    return time.process_time() - started


def costs(bench: Bench, fitting: float, solving: dict[str, float]) -> None:
    """Print seconds for several numbers of queries, with the fit where one is needed.

    Solvers take one query after another, so theirs are multiples of what one took on average.
    """
    queries = bench.run.queries
    numbers = [n for n in (1, 10, 100) if n <= len(queries)]
    print(f"| seconds of CPU, of queries | {' | '.join(map(str, numbers))} |")
    print(f"|---|{'---|' * len(numbers)}")
    for method in ("ekfac", "kfac", "gradient_product"):
        extra = 0.0 if method == "gradient_product" else fitting
        cells = [
            f"{extra + timed(lambda n=n, method=method: bench.by_method(method, queries[:n])):.2f}"
            for n in numbers
        ]
        print(f"| {METHODS[method]} | {' | '.join(cells)} |")
    for said, seconds in solving.items():
        # Of the others lambda alone is of the fit, and could be had for less.
        extra = fitting if SOLVERS[said].name in ("pcg", "astra") else 0.0
        cells = [f"{extra + n * seconds:.1f}" for n in numbers]
        print(f"| {said} | {' | '.join(cells)} |")
    print(f"\nfitting alone: {fitting:.2f} s\n", flush=True)


def bench_of(config: RunConfig, n_points: int, n_queries: int, most_basis: int) -> None:
    """All figures of one run."""
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        run.begin(needs_queries=True)
        run.tokenize()
        fitting = timed(lambda: run.fit("ekfac"))
        bench = Bench(run)
        started = time.monotonic()
        found = pbrf_report(run, n_points, n_queries, most_basis=most_basis)
        print(f"responses: {time.monotonic() - started:.0f} s")
        costs(bench, fitting, compared(bench, found))


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["tables", "text"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--points", type=int)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--epochs", type=int, default=150, help="of networks on tables")
    parser.add_argument("--basis", type=int, default=1000, help="sequences, at most")
    parser.add_argument("--only", choices=TABLES)
    parser.add_argument("--damping", type=float, default=0.1, help="over the mean of Lambda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scan = {"rank": "dense", "damping_scale": options.damping}
    with tempfile.TemporaryDirectory() as place:
        if options.what == "text":
            config = of_text(Path(place), options.queries or 5, scan)
            n_queries = options.queries or 5
            bench_of(config, options.points or 20, n_queries, options.basis)
            return
        if options.folder is None:
            sys.exit("name the folder that holds concrete/ and energy/.")
        sys.path.insert(0, place)
        for name in [options.only] if options.only else TABLES:
            config = of_table(Path(place), options.folder, name, 100, options.epochs, scan)
            bench_of(config, options.points or 500, options.queries or 10, options.basis)


if __name__ == "__main__":
    main()
