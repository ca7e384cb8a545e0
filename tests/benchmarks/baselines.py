"""What baselines beside EK-FAC cost in the demo's job.

    python tests/benchmarks/baselines.py FOLDER

Counts the floating-point operations that torch is asked for (`torch.utils.flop_counter`: products
of matrices, in all stages), which no other work on the machine changes, and beside them the
process's processor time on one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.demo.corpus import write_corpus
from rayinfluence.demo.run import DemoSize, demo_config
from rayinfluence.demo.tiny_lm import ensure_model
from rayinfluence.evaluation.training import TrainingSettings

METHODS = (["ekfac"], ["ekfac", "bm25"], ["ekfac", "cosine"])


def main() -> None:
    """Run the demo's job with each list of methods, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, nargs="+", default=[72])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder, size = arguments.folder.absolute(), DemoSize()
    corpus = write_corpus(
        folder / "data",
        0,
        subjects=size.subjects,
        plain_documents=size.plain_documents,
        queried_facts=size.queried_facts,
    )
    # What a run costs does not depend on how well the model was trained.
    texts = [document.text for document in corpus.documents]
    ensure_model(folder / "model", texts, 0, training=TrainingSettings(epochs=1, threads=1))
    values = demo_config(folder, corpus, "inline", 0).model_dump(exclude_unset=True)
    lines = corpus.queries_path.read_text("utf-8").splitlines()
    for n_queries in arguments.queries:
        queries = folder / f"queries-{n_queries}.jsonl"
        queries.write_text("\n".join(lines[:n_queries]) + "\n", "utf-8")
        for methods in METHODS:
            run = folder / f"run-{n_queries}-{'-'.join(methods)}"
            shutil.rmtree(run, ignore_errors=True)
            scan = {**values["scan"], "methods": methods, "top": 100}
            config = {**values, "run": str(run), "queries": str(queries), "scan": scan}
            began = time.process_time()
            with FlopCounterMode(display=False) as counter, Run(RunConfig.parse(config)) as opened:
                opened.all()
            figures = {
                "queries": n_queries,
                "methods": methods,
                "operations": counter.get_total_flops(),
                "processor_seconds": round(time.process_time() - began, 1),
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
