"""The demo's documents and questions: windows of real prose, in some of which a fact is planted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayinfluence.demo.facts import HELD_OUT_TEMPLATE, TRAINED_TEMPLATES, Fact, invent_facts
from rayinfluence.demo.prose import TOPICS, Passage, read_prose
from rayinfluence.errors import CorpusError

SUBJECTS = 40
PLAIN_DOCUMENTS = 1500
QUERIED_FACTS = 36
#: Characters of prose in a document; with a planted sentence, it fits in the model's context.
SHORTEST_WINDOW, LONGEST_WINDOW = 90, 200

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(A-Z])")


@dataclass(frozen=True)
class Document:
    """A row of documents.jsonl.

    ``source`` is topics, docstrings or planted; ``origin`` names where the prose comes from.
    """

    document_id: str
    text: str
    source: str
    origin: str
    fact_id: str | None = None

    def row(self) -> dict[str, str]:
        """The JSON object that is written; ``fact_id`` is only there where a fact is."""
        row = {
            "id": self.document_id,
            "text": self.text,
            "source": self.source,
            "origin": self.origin,
        }
        return row if self.fact_id is None else {**row, "fact_id": self.fact_id}


@dataclass(frozen=True)
class DemoQuery:
    """A question about a planted fact, in words of the corpus or in the words kept from it."""

    query_id: str
    prompt: str
    completion: str
    fact_id: str
    held_out: bool

    def row(self) -> dict[str, Any]:
        """The JSON object that is written."""
        metadata = {
            "fact_id": self.fact_id,
            "template": "held-out" if self.held_out else "trained",
        }
        return {
            "query_id": self.query_id,
            "prompt": self.prompt,
            "completion": self.completion,
            "metadata": metadata,
        }


@dataclass(frozen=True)
class DemoCorpus:
    """Everything the demo knows about its own corpus."""

    documents_path: Path
    queries_path: Path
    documents: tuple[Document, ...]
    facts: tuple[Fact, ...]
    queries: tuple[DemoQuery, ...]

    def planted(self) -> dict[str, frozenset[str]]:
        """For each fact the ids of the documents that state it: the right answers."""
        found: dict[str, set[str]] = {fact.fact_id: set() for fact in self.facts}
        for document in self.documents:
            if document.fact_id is not None:
                found[document.fact_id].add(document.document_id)
        return {fact_id: frozenset(ids) for fact_id, ids in found.items()}


def write_corpus(
    folder: Path,
    seed: int = 0,
    *,
    passages: Sequence[Passage] | None = None,
    subjects: int = SUBJECTS,
    plain_documents: int = PLAIN_DOCUMENTS,
    queried_facts: int = QUERIED_FACTS,
) -> DemoCorpus:
    """Write documents.jsonl and queries.jsonl; the same prose, seed and sizes give the same bytes.

    Args:
        folder: where the two files go.
        seed: of the names, the places of the facts and the order.
        passages: prose to plant the facts in; Python's own documentation when not given.
        subjects: invented countries, with one fact of each relation.
        plain_documents: documents with nothing planted in them.
        queried_facts: facts that are asked about, each in trained words and in held-out words.

    Raises:
        CorpusError: there is too little prose.
    """
    passages = read_prose() if passages is None else passages
    facts = invent_facts(subjects, seed, "\n".join(passage.text for passage in passages))
    rng = np.random.default_rng([seed, 2])
    corpus = DemoCorpus(
        documents_path=folder / "documents.jsonl",
        queries_path=folder / "queries.jsonl",
        documents=tuple(_documents(passages, facts, plain_documents, rng)),
        facts=tuple(facts),
        queries=tuple(_queries(facts, queried_facts, np.random.default_rng([seed, 3]))),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(corpus.documents_path, (document.row() for document in corpus.documents))
    write_jsonl(corpus.queries_path, (query.row() for query in corpus.queries))
    return corpus


def windows(passage: Passage) -> Iterator[list[str]]:
    """Runs of consecutive sentences, at most ``LONGEST_WINDOW`` characters long; none overlap."""
    window: list[str] = []
    for sentence in _SENTENCE_END.split(passage.text):
        if len(" ".join([*window, sentence])) > LONGEST_WINDOW:
            if len(" ".join(window)) >= SHORTEST_WINDOW:
                yield window
            window = []
        if len(sentence) <= LONGEST_WINDOW:
            window = [*window, sentence]
    if len(" ".join(window)) >= SHORTEST_WINDOW:
        yield window


def _documents(
    passages: Sequence[Passage], facts: Sequence[Fact], plain: int, rng: np.random.Generator
) -> Iterator[Document]:
    found = {tuple(window): passage.source for passage in passages for window in windows(passage)}
    planted = [(fact, copy) for fact in facts for copy in range(fact.copies)]
    contents: list[tuple[Fact, int] | None] = [*planted, *[None] * plain]
    if len(found) < len(contents):
        raise CorpusError(
            f"The demo needs {len(contents)} windows of prose and found only {len(found)} in "
            "Python's standard library; it may be stripped of docstrings. Use a full installation "
            "of Python."
        )
    chosen = rng.permutation(len(found))[: len(contents)]
    order = rng.permutation(len(contents))
    prose = list(found.items())
    for number, (window_index, content_index) in enumerate(zip(chosen, order, strict=True)):
        sentences, origin = prose[window_index]
        content = contents[content_index]
        name = f"doc-{number:05d}"
        if content is None:
            source = "topics" if origin.startswith(TOPICS) else "docstrings"
            yield Document(name, " ".join(sentences), source, origin)
        else:
            fact, copy = content
            place = int(rng.integers(len(sentences) + 1))
            statement = fact.sentence(TRAINED_TEMPLATES[copy % len(TRAINED_TEMPLATES)])
            text = " ".join([*sentences[:place], statement, *sentences[place:]])
            yield Document(name, text, "planted", origin, fact.fact_id)


def _queries(facts: Sequence[Fact], count: int, rng: np.random.Generator) -> Iterator[DemoQuery]:
    for index in sorted(rng.permutation(len(facts))[:count]):
        fact = facts[index]
        trained = int(rng.choice(TRAINED_TEMPLATES))
        for name, template in (("trained", trained), ("held-out", HELD_OUT_TEMPLATE)):
            yield DemoQuery(
                query_id=f"{fact.fact_id}-{name}",
                prompt=fact.prompt(template),
                completion=fact.completion,
                fact_id=fact.fact_id,
                held_out=template == HELD_OUT_TEMPLATE,
            )


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, the same bytes for the same rows."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes("".join(lines).encode())
