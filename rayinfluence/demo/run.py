"""The demo: the whole of rayinfluence at its smallest, checking itself on facts that it planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from rayinfluence.config import RunConfig
from rayinfluence.corpus.queries import encode_queries
from rayinfluence.corpus.query_forms import Query
from rayinfluence.dataflow.run import Run
from rayinfluence.demo.corpus import (
    PLAIN_DOCUMENTS,
    QUERIED_FACTS,
    SUBJECTS,
    DemoCorpus,
    DemoQuery,
    write_corpus,
)
from rayinfluence.demo.order import write_parts
from rayinfluence.demo.tiny_lm import ensure_model
from rayinfluence.demo.variants import variants, write_variants
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.tracing import completion_log_probability, mean_recall
from rayinfluence.evaluation.training import TrainingSettings
from rayinfluence.methods.lexical import BM25
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

K = 10
#: Texts for `rayinfluence probe`: a fact that the model knows, in other words.
VARIANTS = "variants.yaml"
#: Texts for `rayinfluence analyse --what order`: all facts, and what differs in one thing.
ORDER = "order.yaml"
#: Facts that `rayinfluence evaluate` of the job leaves out, one by one.
FACTS_LEFT_OUT = 8
#: Survivors kept per query and side; the report needs no more.
_TOP = 20


@dataclass(frozen=True)
class Recall:
    """Recall@10 of one method, for queries in trained and held-out words (None: none known)."""

    method: str
    trained: float | None
    held_out: float | None


@dataclass(frozen=True)
class DemoOutcome:
    """What the demo found.

    ``known_*`` count the queries whose fact the model knows: it gives the right object a higher
    probability than another fact's object. Recall is over those alone.
    """

    store: Store
    results: dict[str, Results]
    recalls: tuple[Recall, ...]
    known_trained: int
    known_held_out: int
    n_facts: int

    def print(self, console: Console) -> None:
        """Print the table of recalls."""
        table = Table(
            "method",
            f"asked in trained words ({self.known_trained} of {self.n_facts} facts known)",
            f"in held-out words ({self.known_held_out} known)",
            title=f"recall@{K} of the planted documents",
        )
        for recall in self.recalls:
            table.add_row(recall.method, _share(recall.trained), _share(recall.held_out))
        console.print(table)


@dataclass(frozen=True)
class DemoSize:
    """How large the demo is; the defaults are what ``make demo`` runs."""

    subjects: int = SUBJECTS
    plain_documents: int = PLAIN_DOCUMENTS
    queried_facts: int = QUERIED_FACTS
    training: TrainingSettings = field(default_factory=TrainingSettings)


#: So small that its model is trained again in seconds: methods are measured on it in minutes.
SMALL = DemoSize(
    subjects=10,
    plain_documents=40,
    queried_facts=8,
    training=TrainingSettings(epochs=14, batch=4, learning_rate=3e-3, threads=1),
)


def run_demo(
    folder: Path, runner: str = "ray", seed: int = 0, size: DemoSize | None = None
) -> DemoOutcome:
    """Write the corpus, train the model (or find it trained), trace the facts, check the answers.

    Args:
        folder: holds everything; a second run reuses what it finds there.
        runner: ``ray`` or ``inline``.
        seed: of facts, model and fit.
        size: of the corpus and the training.
    """
    size = size or DemoSize()
    corpus = write_corpus(
        folder / "data",
        seed,
        subjects=size.subjects,
        plain_documents=size.plain_documents,
        queried_facts=size.queried_facts,
    )
    texts = [document.text for document in corpus.documents]
    ensure_model(folder / "model", texts, seed, training=size.training)
    config = demo_config(folder, corpus, runner, seed)
    _write_job_config(folder, config, again(size.training, seed))
    with Run(config) as run:
        results = run.all()
        known = _known(run, corpus)
        bm25 = _bm25(run, corpus)
    asked = (known[False] or corpus.queries)[0]
    fact = next(one for one in corpus.facts if one.fact_id == asked.fact_id)
    write_variants(folder / VARIANTS, asked.query_id, variants(fact, corpus.facts))
    ranked = {
        method: {query.query_id: _documents(found, query) for query in corpus.queries}
        for method, found in results.items()
    } | {"bm25": bm25}
    write_parts(folder / ORDER, corpus)
    planted = corpus.planted()
    recalls = tuple(
        Recall(method, *(_recall(found, known[side], planted) for side in (False, True)))
        for method, found in ranked.items()
    )
    return DemoOutcome(
        run.store,
        results,
        recalls,
        len(known[False]),
        len(known[True]),
        len(corpus.queries) // 2,
    )


def demo_config(folder: Path, corpus: DemoCorpus, runner: str, seed: int) -> RunConfig:
    """The run's configuration."""
    return RunConfig.parse(
        {
            "run": str(folder.absolute() / "run"),
            "model": str(folder.absolute() / "model"),
            "queries": str(corpus.queries_path.absolute()),
            "seed": seed,
            "device": "cpu",
            "corpus": {
                "documents": [str(corpus.documents_path.absolute())],
                "row_group_tokens": 2**12,
            },
            "scan": {
                "methods": ["ekfac", "gradient_product"],
                "top": _TOP,
                "split_tokens": 2**15,
            },
            "runner": {"name": runner},
        },
        "demo",
    )


def again(training: TrainingSettings, seed: int) -> dict[str, Any]:
    """The section of a configuration that trains the demo's model again, on parts of the corpus.

    Args:
        training: of the model.
        seed: of the model, and the first of the trainings.
    """
    return {
        "options": {"sizes": asdict(ModelSettings()), **asdict(training)},
        "seeds": [seed, seed + 1],
        "known": "fact_id",
        "groups": {"key": "fact_id", "most": FACTS_LEFT_OUT},
        "shapley": {"key": "source"},
    }


def _write_job_config(folder: Path, config: RunConfig, evaluation: Mapping[str, Any]) -> None:
    """The same questions to the same corpus in another run directory, to submit as a job.

    And how its model is trained again, for `rayinfluence evaluate` and `shapley`.
    """
    values = config.model_dump(exclude_unset=True)
    values["run"] = str(folder.absolute() / "job")
    values["runner"] = {"name": "ray"}
    values["scan"]["group_by"] = ["source", "fact_id"]
    values["evaluation"] = dict(evaluation)
    text = yaml.safe_dump(values, sort_keys=False)
    (folder / "job.yaml").write_text(text, encoding="utf-8")


def _known(run: Run, corpus: DemoCorpus) -> dict[bool, list[DemoQuery]]:
    """The queries, by whether their words were held out, whose fact the model knows."""
    known: dict[bool, list[DemoQuery]] = {False: [], True: []}
    objects = {fact.fact_id: fact for fact in corpus.facts}
    for query in corpus.queries:
        fact = objects[query.fact_id]
        others = [f for f in corpus.facts if f.relation == fact.relation]
        other = others[(others.index(fact) + 1) % len(others)]
        right, wrong = (
            completion_log_probability(run.replica, encoded)
            for encoded in encode_queries(
                [
                    Query.of(query.query_id, query.prompt, query.completion),
                    Query.of(query.query_id, query.prompt, other.completion),
                ],
                run.tokenizer,
                run.replica.context,
            )
        )
        if right > wrong:
            known[query.held_out].append(query)
    return known


def _bm25(run: Run, corpus: DemoCorpus) -> dict[str, list[str]]:
    documents = corpus.documents
    index = BM25(range(len(documents)), [document.text for document in documents])
    return {
        query.query_id: [
            documents[place].document_id for place in index.top(query.prompt + query.completion, K)
        ]
        for query in corpus.queries
    }


def _documents(results: Results, query: DemoQuery) -> list[str]:
    return [survivor.document_id for survivor in results.proponents(query.query_id)[:K]]


def _recall(
    ranked: Mapping[str, Sequence[str]],
    queries: Sequence[DemoQuery],
    planted: Mapping[str, frozenset[str]],
) -> float | None:
    if not queries:
        return None
    return mean_recall(
        {query.query_id: ranked[query.query_id] for query in queries},
        {query.query_id: planted[query.fact_id] for query in queries},
        K,
    )


def _share(value: float | None) -> str:
    return "no fact known" if value is None else f"{value:.2f}"
