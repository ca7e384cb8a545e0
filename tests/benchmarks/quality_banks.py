"""The corpora, questions and configurations of the banks that docs/quality.md measures on.

    python tests/benchmarks/quality_banks.py demo [--folder runs/quality]
    python tests/benchmarks/quality_banks.py tuned [--folder runs/quality]
    python tests/benchmarks/quality_banks.py books --books BOOKS [--folder runs/quality]

`demo` is the demo's prose in which facts are planted; asked are facts, in words of the corpus, and
ends of passages that are not in it. `tuned` has the same corpus, and a model to begin from that was
trained on other passages of the same prose. `books` is passages of BOOKS, which has a folder
`author_book` for each book with a file of XHTML for each chapter, as github.com/standardebooks has
them, and a model to begin from that was trained on other passages of the same books; asked are ends
of passages that neither has. The configurations are those of jobs/quality with the folder's
addresses; `rayinfluence evaluate` of what is printed does the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from books import chapters_of
from transformers import AutoTokenizer

from rayinfluence.demo.corpus import windows, write_corpus
from rayinfluence.demo.prose import Passage, read_prose
from rayinfluence.demo.tiny_lm import train_tokenizer
from rayinfluence.evaluation.new_model import ModelSettings, new_model
from rayinfluence.evaluation.training import TrainingSettings, train

JOBS = Path(__file__).parents[2] / "jobs" / "quality"
#: Where all of it is, and how the configurations have that, from their folder.
PLACE = "runs/quality"
THERE = f"../../{PLACE}"
VOCABULARY = 1024
#: Facts, and ends of passages, that are asked of the demo's bank.
FACTS, ENDS = 20, 20
#: Of each author of the books' bank; who wrote less has fewer in the corpus.
PASSAGES, ASKED = 64, 5
#: Passages that the model to begin from was trained on, and how.
OTHERS = 1500
FIRST = TrainingSettings(epochs=8, batch=16, learning_rate=4e-3, threads=1)
SIZES = ModelSettings(vocabulary=VOCABULARY, context=128)
#: Words of a passage's end that are asked.
END = 8


def demo_bank(folder: Path) -> list[str]:
    """Write documents and questions; the texts of the documents."""
    corpus = write_corpus(folder, 0, subjects=8, plain_documents=340, queried_facts=FACTS)
    facts = [query.row() for query in corpus.queries if not query.held_out]
    texts = [document.text for document in corpus.documents]
    whole = "\n".join(texts)
    left = [one for passage in read_prose() for one in passages(passage) if one not in whole]
    chosen = np.random.default_rng([0, 7]).permutation(len(left))[:ENDS]
    ends = (question(f"prose/{place}", left[one], {}) for place, one in enumerate(chosen))
    write_lines(folder / "queries.jsonl", [*facts, *ends])
    return texts


def books_bank(folder: Path, books: Path) -> tuple[list[str], list[str]]:
    """Write documents and questions; the texts of the documents, and of passages in neither."""
    rng = np.random.default_rng([0, 8])
    documents: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    left: list[str] = []
    for author, files in sorted(chapters_of(books).items()):
        found = [
            one
            for text in files.values()
            for one in passages(Passage(author, " ".join(text.split())))
        ]
        order = rng.permutation(len(found))
        chosen = [found[one] for one in order[: PASSAGES + ASKED]]
        left += [found[one] for one in order[PASSAGES + ASKED :]]
        documents += [
            {"id": f"{author}/{place}", "text": text, "author": author}
            for place, text in enumerate(chosen[ASKED:])
        ]
        asked += [
            question(f"{author}/asked-{place}", text, {"author": author})
            for place, text in enumerate(chosen[:ASKED])
        ]
    order = rng.permutation(len(documents))
    write_lines(folder / "documents.jsonl", [documents[one] for one in order])
    write_lines(folder / "queries.jsonl", asked)
    return [documents[one]["text"] for one in order], left


def other_prose(folder: Path) -> list[str]:
    """Passages of the demo's prose that are neither in the bank's corpus nor asked."""
    lines = {
        key: [json.loads(line)[key] for line in (folder / name).read_text("utf-8").splitlines()]
        for key, name in (("text", "documents.jsonl"), ("prompt", "queries.jsonl"))
    }
    whole = "\n".join(lines["text"]) + "\n".join(lines["prompt"])
    return [one for passage in read_prose() for one in passages(passage) if one not in whole]


def begin(folder: Path, left: list[str]) -> None:
    """Train the model that trainings of the bank begin from, on passages that it lacks."""
    chosen = np.random.default_rng([0, 9]).permutation(len(left))[:OTHERS]
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    rows = tokenizer([left[one] for one in chosen])["input_ids"]
    model = new_model(SIZES, 0)
    train(model, rows, 0, FIRST)
    model.save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")


def passages(passage: Passage) -> Iterator[str]:
    """Whole sentences that follow each other, up to the demo's longest window."""
    return (" ".join(window) for window in windows(passage))


def question(query_id: str, text: str, metadata: dict[str, str]) -> dict[str, Any]:
    """A passage without its last words, and those."""
    words = text.split()
    return {
        "query_id": query_id,
        "prompt": " ".join(words[:-END]),
        "completion": " " + " ".join(words[-END:]),
        "metadata": metadata,
    }


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Write a bank's files, and print where its configuration is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", choices=["demo", "tuned", "books"])
    parser.add_argument("--books", type=Path, help="the folder of books")
    parser.add_argument("--folder", type=Path, default=Path(PLACE))
    options = parser.parse_args()
    if options.bank == "books" and options.books is None:
        parser.error("name the folder of books: --books BOOKS")
    folder = options.folder / options.bank
    folder.mkdir(parents=True, exist_ok=True)
    if options.bank == "books":
        texts, left = books_bank(folder, options.books)
    else:
        texts = demo_bank(folder)
        left = other_prose(folder) if options.bank == "tuned" else []
    train_tokenizer(texts, SIZES).save_pretrained(folder / "tokenizer")
    if left:
        begin(folder, left)
    config = (JOBS / f"{options.bank}.yaml").read_text("utf-8")
    written = folder / "config.yaml"
    written.write_text(config.replace(THERE, str(options.folder.absolute())), encoding="utf-8")
    yaml.safe_load(written.read_text("utf-8"))
    print(written)


if __name__ == "__main__":
    main()
