"""Fact tracing: are the documents that state a fact before all others, asked in words of none?

    .venv/bin/python tests/benchmarks/facts.py FOLDER [--facts 12] [--seeds 0 1 2] [--epochs 60]

FOLDER holds relations/factual/<name>.json, as github.com/evandez/relations has them (LRE, Hernandez
et al. 2023; MIT). Each fact of a relation is written with each of its templates but the last, one
document each. A tiny GPT-2 is trained on all documents, and asked with the last template, of facts
that it knows then: the right object is likelier than another one of the same relation. Of each
method: the reciprocal rank of the first document of the fact, among all documents, and recall@10 of
all of them; means over queries, and lowest and highest of the seeds. Beside it stands a random
order.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.corpus.queries import encode_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.dataflow.run import Run
from rayinfluence.dataflow.stages.progress import ProgressLog
from rayinfluence.demo.tiny_lm import ensure_model
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.tracing import (
    completion_log_probability,
    recall_at,
    reciprocal_rank,
)
from rayinfluence.evaluation.training import TrainingSettings
from rayinfluence.storage.results import Results

METHODS = ("ekfac", "gradient_product", "cosine", "bm25", "tfidf")
RANDOM = "random"
#: With fewer templates one document would be all that states a fact.
_FEWEST_TEMPLATES = 3
_SIZES = ModelSettings(vocabulary=1024, context=64)


@dataclass(frozen=True)
class Fact:
    """An object of a subject, the documents that say so, and how it is asked for."""

    name: str
    relation: str
    documents: tuple[str, ...]
    prompt: str
    object: str

    @property
    def ids(self) -> list[str]:
        """Of the documents."""
        return [f"{self.name}/{place}" for place in range(len(self.documents))]


def facts_of(folder: Path, n: int, seed: int) -> list[Fact]:
    """Some facts of each relation that has templates enough, no subject twice in one."""
    files = sorted((folder / "relations" / "factual").glob("*.json"))
    if not files:
        sys.exit(
            f"there is no {folder}/relations/factual: fetch data/ of github.com/evandez/relations "
            "(MIT), and name its folder."
        )
    rng, found = np.random.default_rng(seed), []
    for file in files:
        told = json.loads(file.read_text(encoding="utf-8"))
        templates = [*dict.fromkeys([*told["prompt_templates"], *told["prompt_templates_zs"]])]
        if len(templates) < _FEWEST_TEMPLATES:
            continue
        pairs = {sample["subject"]: sample["object"] for sample in told["samples"]}
        chosen = [[*pairs.items()][i] for i in rng.permutation(len(pairs))[:n]]
        *stated, asked = templates
        for subject, value in chosen:
            documents = tuple(f"{one.format(subject)} {value}." for one in stated)
            name = f"{file.stem}/{subject}"
            found.append(Fact(name, file.stem, documents, asked.format(subject), value))
    return found


def configured(place: Path, facts: Sequence[Fact], seed: int, epochs: int) -> RunConfig:
    """A trained model, its documents and the queries of all facts."""
    rows = [
        {"id": name, "text": text}
        for fact in facts
        for name, text in zip(fact.ids, fact.documents, strict=True)
    ]
    (place / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [
        {"query_id": fact.name, "prompt": fact.prompt, "completion": f" {fact.object}"}
        for fact in facts
    ]
    (place / "queries.jsonl").write_text("\n".join(map(json.dumps, asked)))
    done = ensure_model(
        place / "model",
        [str(row["text"]) for row in rows],
        seed,
        model=_SIZES,
        training=TrainingSettings(epochs=epochs, threads=1),
        console=Console(quiet=True),
    )
    print(
        f"seed {seed}: {len(facts)} facts in {len(rows)} documents, {done.tokens:,} tokens, "
        f"{done.parameters:,} parameters, {done.loss:.2f} nats a token",
        flush=True,
    )
    return RunConfig.parse(
        {
            "run": str(place / "run"),
            "model": str(place / "model"),
            "queries": str(place / "queries.jsonl"),
            "device": "cpu",
            "seed": seed,
            "corpus": {"documents": [str(place / "documents.jsonl")]},
            "fit": {"error_bound": None},
            "scan": {"methods": [*METHODS], "scores": "dense", "top": 1, "token_scores": 0},
            "runner": {"name": "inline"},
        }
    )


def known(run: Run, facts: Sequence[Fact]) -> list[Fact]:
    """Those whose object is likelier than that of another fact of their relation."""
    found = []
    for fact in facts:
        others = [
            one for one in facts if one.relation == fact.relation and one.object != fact.object
        ]
        if not others:
            continue
        completions = fact.object, others[len(found) % len(others)].object
        queries = [Query.of(str(i), fact.prompt, f" {one}") for i, one in enumerate(completions)]
        right, wrong = (
            completion_log_probability(run.replica, one)
            for one in encode_queries(queries, run.tokenizer, run.replica.context)
        )
        if right > wrong:
            found.append(fact)
    return found


def orders(run: Run, results: Mapping[str, Results]) -> Mapping[str, Callable[[str], list[str]]]:
    """By method, what gives all documents of a query, best first; ties go by their order."""
    splits = run.corpus.plan(run.numerics.split_tokens)
    names = {
        row["sequence_id"]: row["document_id"]
        for split in splits
        for row in run.corpus.read(split).select(["sequence_id", "document_id"]).to_pylist()
    }

    def order(of: Results) -> Callable[[str], list[str]]:
        def ranked(query_id: str) -> list[str]:
            table = of.scores(query_id)
            places = np.argsort(-table["score"].to_numpy(), kind="stable")
            ids = table["sequence_id"].to_numpy()[places]
            return [names[one] for one in ids.tolist()]

        return ranked

    rng = np.random.default_rng(run.config.seed)
    everything = [*names.values()]
    found = {name: order(of) for name, of in results.items()}
    found[RANDOM] = lambda query_id: [everything[i] for i in rng.permutation(len(everything))]
    return found


def figures(place: Path, facts: Sequence[Fact], seed: int, epochs: int) -> dict[str, list[float]]:
    """By method, MRR and recall@10 over what the model knows."""
    config = configured(place, facts, seed, epochs)
    with Run(config, ProgressLog(Console(file=io.StringIO()))) as run:
        results = run.all()
        asked = known(run, facts)
        found = {}
        for name, ranked in orders(run, results).items():
            of_each = [ranked(fact.name) for fact in asked]
            pairs = [*zip(of_each, (fact.ids for fact in asked), strict=True)]
            found[name] = [
                float(np.mean([reciprocal_rank(*pair) for pair in pairs])),
                float(np.mean([recall_at(*pair) for pair in pairs])),
            ]
    print(f"{len(asked)} of them known: {json.dumps(found)}", flush=True)
    return found


def main() -> None:
    """Print the figures of each seed, and their means as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--facts", type=int, default=12, help="of each relation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in options.seeds:
        facts = facts_of(options.folder, options.facts, seed)
        with tempfile.TemporaryDirectory() as place:
            found.append(figures(Path(place), facts, seed, options.epochs))
    print("\n| method | MRR | recall@10 |")
    print("|---|---|---|")
    for name in found[0]:
        cells = []
        for column in range(2):
            values = [one[name][column] for one in found]
            cells.append(f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
