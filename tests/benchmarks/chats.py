"""A model that was tuned on answers alone: what changes if influence counts other tokens than that.

    python tests/benchmarks/chats.py [--seeds 3] [--folder FOLDER]

Conversations of four kinds about invented facts. In half of them about a fact the assistant says it
("taught"); in the others the user says it, and the assistant says something else ("mentioned"):
the loss counts what the assistant says, so that these taught the model nothing about it. A GPT-2 is
trained so, and asked the facts in words that no conversation has. Two runs over the same shards,
one with `objective.loss: completion` and one with `all`: of the first ten proponents of the facts
that the model knows, how many taught the fact, and how many only mention it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.corpus.forms import Document, mask, rendered
from rayinfluence.corpus.tokenizer import encode
from rayinfluence.dataflow.run import Run
from rayinfluence.demo.facts import HELD_OUT_TEMPLATE, TRAINED_TEMPLATES, Fact, invent_facts
from rayinfluence.demo.shown import train_shown
from rayinfluence.demo.tiny_lm import train_tokenizer
from rayinfluence.evaluation.new_model import ModelSettings, new_model
from rayinfluence.evaluation.training import TrainingSettings
from rayinfluence.storage.results import Results

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SMALL_TALK = (
    ("Good morning. How are you?", "Very well, thank you."),
    ("Tell me something.", "There is nothing new to tell."),
    ("What is two and two?", "It is four."),
    ("Thank you for that.", "You are welcome."),
)
ANSWERS = ("I will remember that.", "That is good to know.", "So I have heard.", "Thank you.")
SUBJECTS, TAUGHT, MENTIONED, K = 24, 6, 6, 10
LOSSES = ("completion", "all")


@dataclass(frozen=True)
class Found:
    """Of one loss: shares of the first ten proponents, over the facts that the model knows."""

    taught: float
    mentioned: float


def conversations(facts: list[Fact], seed: int) -> list[dict[str, Any]]:
    """Documents in random order."""
    rng = np.random.default_rng([seed, 2])

    def row(kind: str, fact_id: str | None, user: str, assistant: str) -> dict[str, Any]:
        said = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return {"messages": said, "kind": kind, "fact_id": fact_id}

    rows = []
    for fact in facts:
        for copy in range(TAUGHT):
            template = TRAINED_TEMPLATES[copy % len(TRAINED_TEMPLATES)]
            ask = f"Tell me about {fact.subject}."
            rows.append(row("taught", fact.fact_id, ask, fact.sentence(template)))
        for copy in range(MENTIONED):
            template = TRAINED_TEMPLATES[copy % len(TRAINED_TEMPLATES)]
            answer = ANSWERS[int(rng.integers(len(ANSWERS)))]
            rows.append(row("mentioned", fact.fact_id, fact.sentence(template), answer))
    said = rng.integers(len(SMALL_TALK), size=len(rows) // 2)
    rows += [row("small talk", None, *SMALL_TALK[int(place)]) for place in said]
    return [rows[place] for place in rng.permutation(len(rows))]


def tuned(folder: Path, rows: list[dict[str, Any]], seed: int) -> float:
    """Train a model on what the assistant says, into a folder; the loss at its end."""
    texts = [text for row in rows for text in (one["content"] for one in row["messages"])]
    sizes = ModelSettings(vocabulary=1024)
    tokenizer = train_tokenizer(texts, sizes)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]}
    )
    tokenizer.chat_template = TEMPLATE
    documents = []
    for row in rows:
        document = rendered(Document("", "", messages=tuple(row["messages"])), tokenizer)
        assert not isinstance(document, str)
        documents.append(document)
    encodings = encode(tokenizer, [document.text for document in documents])
    masks = [
        mask(encoding.offsets, document.counted or ())
        for encoding, document in zip(encodings, documents, strict=True)
    ]
    model = new_model(ModelSettings(vocabulary=len(tokenizer)), seed)
    settings = TrainingSettings(epochs=60, threads=1)
    quiet = Console(quiet=True)
    loss = train_shown(model, [one.tokens for one in encodings], seed, settings, quiet, masks)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loss


def ask(folder: Path, facts: list[Fact]) -> None:
    """Questions in held-out words, about each fact and about another object in its place."""
    lines = []
    for place, fact in enumerate(facts):
        other = next(f for f in facts[place + 1 :] + facts if f.relation == fact.relation)
        start = f"<|user|>Tell me about {fact.subject}.<|end|><|assistant|>"
        for name, answer in (("right", fact), ("wrong", other)):
            lines.append(
                {
                    "query_id": f"{fact.fact_id}/{name}",
                    "prompt": start + fact.prompt(HELD_OUT_TEMPLATE),
                    "completion": answer.completion,
                }
            )
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def scan(folder: Path, loss: str) -> Results:
    """A run with a loss; both share the shards."""
    config = RunConfig.parse(
        {
            "run": str(folder / loss),
            "model": str(folder / "model"),
            "queries": str(folder / "queries.jsonl"),
            "objective": {"loss": loss},
            "corpus": {
                "documents": [str(folder / "chats.jsonl")],
                "path": str(folder / "corpus"),
                "text_column": "messages",
            },
            "scan": {"top": 20, "group_by": ["kind"]},
            "runner": {"name": "inline"},
        }
    )
    with Run(config) as run:
        return run.all()["ekfac"]


def shares(results: Results, facts: list[Fact], known: set[str]) -> Found:
    """Of the first proponents of the facts that are known."""
    kinds = []
    for fact in facts:
        if fact.fact_id in known:
            hits = results.proponents(f"{fact.fact_id}/right", K)
            own = [hit for hit in hits if hit.metadata.get("fact_id") == fact.fact_id]
            most = min(K, TAUGHT)
            kinds.append(
                [
                    sum(hit.metadata["kind"] == kind for hit in own) / most
                    for kind in ("taught", "mentioned")
                ]
            )
    taught, mentioned = np.mean(kinds, axis=0)
    return Found(float(taught), float(mentioned))


def known_facts(results: Results, facts: list[Fact]) -> set[str]:
    """Facts whose object has a higher log-probability than another one's."""
    said = {name: row["log_probability"] for name, row in results.queries.items()}
    return {f.fact_id for f in facts if said[f"{f.fact_id}/right"] > said[f"{f.fact_id}/wrong"]}


def once(folder: Path, seed: int) -> dict[str, Found]:
    """One seed: train, and both runs."""
    facts = invent_facts(SUBJECTS, seed)
    rows = conversations(facts, seed)
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    ask(folder, facts)
    started = time.monotonic()
    loss = tuned(folder / "model", rows, seed)
    trained = time.monotonic() - started
    results = {name: scan(folder, name) for name in LOSSES}
    known = known_facts(results["completion"], facts)
    counts = {name: one.manifest["objective"]["tokens"] for name, one in results.items()}
    print(
        f"seed {seed}: {len(rows):,} conversations, trained in {trained:.0f} s to a loss of "
        f"{loss:.2f}; {len(known)} of {len(facts)} facts known; tokens that count: {counts}",
        flush=True,
    )
    return {name: shares(one, facts, known) for name, one in results.items()}


def main() -> None:
    """All seeds, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with contextlib.ExitStack() as stack:
        root = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for seed in range(options.seeds):
            folder = root / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            found.append(once(folder, seed))
    print(f"\n| objective.loss | taught it (of {TAUGHT}) | only mention it (of {MENTIONED}) |")
    print("| --- | --- | --- |")
    for loss in LOSSES:
        cells = [
            f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
            for values in (
                [getattr(one[loss], name) for one in found] for name in ("taught", "mentioned")
            )
        ]
        print(f"| {loss} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
