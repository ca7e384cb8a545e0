"""What filters keep of the most influential sequences, on the demo's corpus: bound and truth.

    python tests/benchmarks/filtering.py FOLDER

The demo's corpus and model are made in the folder, or found there. Each query is asked alone, and a
filter may keep 2 % of the sequences for it. Its recall of the query's first by EK-FAC is bounded by
a random sample; beside that stands the true one, by a scan of everything. Figures are means over
queries, of a bound the least, too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.demo.corpus import write_corpus
from rayinfluence.demo.run import demo_config
from rayinfluence.demo.tiny_lm import ensure_model
from rayinfluence.evaluation.training import TrainingSettings
from rayinfluence.influence.recall import CONFIDENCE
from rayinfluence.methods.registry import METHODS
from rayinfluence.storage.results import Results

EXACT = "ekfac"
FILTERS = ("tfidf", "bm25", "gradient_product")


def main() -> None:
    """Print a line per filter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=TrainingSettings().epochs)
    parser.add_argument("--facts", type=int, default=3, help="asked about, in two ways each")
    parser.add_argument("--share", type=float, default=0.02, help="of the corpus, that is kept")
    parser.add_argument("--sample", type=float, default=0.5, help="of the corpus, that is drawn")
    wanted = parser.parse_args()
    corpus = write_corpus(wanted.folder / "data", 0, queried_facts=wanted.facts)
    texts = [document.text for document in corpus.documents]
    training = TrainingSettings(epochs=wanted.epochs, threads=1)
    ensure_model(wanted.folder / "model", texts, 0, training=training)
    config = demo_config(wanted.folder, corpus, "inline", 0)
    whole = _run(config, {})
    n = whole.manifest["n_sequences"]
    print(f"{n:,} sequences; bounds hold with {CONFIDENCE:.0%}, each by itself")
    print("filter             kept  of the first  estimate  at least (least)   true  seconds")
    lines = corpus.queries_path.read_text("utf-8").splitlines()
    for method in FILTERS:
        sides = 2 if METHODS[method].meaning.directed else 1
        candidates = {
            "method": method,
            "top": int(wanted.share * n / sides),
            "sample": int(wanted.sample * n),
        }
        began, rows = time.monotonic(), []
        for place, line in enumerate(lines):
            alone = wanted.folder / f"query-{place}.jsonl"
            alone.write_text(line + "\n", encoding="utf-8")
            found = _run(config, {"candidates": candidates}, alone)
            told = found.manifest["filter"]
            (query,) = found.queries
            known = told["recall"][EXACT][query]["proponent"]
            true = _true(whole, found, query, known["n_top"])
            rows.append((told["candidates"] / n, known["estimate"], known["at_least"], true))
        seconds = (time.monotonic() - began) / len(lines)
        kept, estimate, at_least, true = np.mean(rows, axis=0)
        least = np.min(rows, axis=0)[2]
        print(
            f"{method:<17}{kept:>6.1%}{known['n_top']:>8} ({known['n_top'] / n:.1%})"
            f"{estimate:>8.0%}{at_least:>11.0%} ({least:.0%}){true:>9.0%}{seconds:>9.0f}"
        )


def _run(config: RunConfig, scan: dict[str, Any], queries: Path | None = None) -> Results:
    values = config.model_dump(exclude_unset=True)
    values["queries"] = str(queries or config.queries)
    values["scan"] = {**values["scan"], "methods": [EXACT], "scores": "dense", **scan}
    silent = ProgressLog(Console(quiet=True))
    with Run(RunConfig.parse(values), silent, new_run=True) as run:
        return run.all()[EXACT]


def _true(whole: Results, found: Results, query: str, n_top: int) -> float:
    """The share of the first of all that the filter left to be scored."""
    table = whole.scores(query)
    scores, ids = table["score"].to_numpy(), table["sequence_id"].to_numpy()
    first = ids[np.lexsort((ids, -scores))[:n_top]]
    return float(np.isin(first, found.scores(query)["sequence_id"].to_numpy()).mean())


if __name__ == "__main__":
    main()
