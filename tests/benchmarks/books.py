"""How well the author of a sentence is found among books: from XHTML to results by one config.

    python tests/benchmarks/books.py BOOKS [--seeds 0 1 2] [--epochs 3] [--folder FOLDER]

BOOKS has a folder `author_book` for each book, with a file of XHTML for each chapter, as
github.com/standardebooks has them. For each seed a tenth of each author's chapters is held out, of
those who have several. A GPT-2 is trained by the demo's loop on the sequences that
`rayinfluence tokenize` makes of all others, and asked for the second halves of sentences of what
was held out: `jobs/books.yaml`, with the addresses of this machine, is the run. Of each method: how
often the author whose sequences have the highest mean score wrote the sentence, and how many of the
first ten proponents are by who did. Beside it stands chance: one in as many as there are authors,
and the author's share of all sequences.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import bracex
import numpy as np
import torch
import yaml
from rich.console import Console

from rayinfluence.config import RunConfig
from rayinfluence.corpus.corpus import Corpus
from rayinfluence.corpus.documents import BadDocument, read_documents
from rayinfluence.corpus.files import find_files
from rayinfluence.corpus.forms import Columns
from rayinfluence.corpus.shards import sequences_of
from rayinfluence.dataflow.run import Run
from rayinfluence.demo.shown import train_shown
from rayinfluence.demo.tiny_lm import train_tokenizer
from rayinfluence.evaluation.new_model import ModelSettings, new_model
from rayinfluence.evaluation.training import TrainingSettings
from rayinfluence.storage.results import Results
from rayinfluence.storage.store import Store

CONFIG = Path(__file__).parents[2] / "jobs" / "books.yaml"
#: What the addresses of documents begin with there.
ROOT = "books/"
SIZES = ModelSettings(context=128)
K = 10
HELD_OUT = 0.1
#: Of a sentence that is asked.
FEWEST_WORDS, MOST_WORDS = 12, 40
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def chapters_of(books: Path) -> dict[str, dict[str, str]]:
    """The texts of each author's chapters, by the addresses of their files."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for file in find_files(documents_of(books), lambda url: {}).files:
        for row in read_documents(file, Columns("text", "id", path=values()["path_columns"])):
            if isinstance(row, BadDocument):
                raise SystemExit(f"{row.place}: {row.reason}")
            found[row.metadata["author"]][file.url] = row.text
    return dict(found)


def values() -> dict[str, Any]:
    """What the configuration says of the corpus."""
    corpus: dict[str, Any] = yaml.safe_load(CONFIG.read_text("utf-8"))["corpus"]
    return corpus


def documents_of(books: Path) -> list[str]:
    """The globs of the configuration, in a folder of books; names that no book has are left out."""
    names = [
        name
        for pattern in values()["documents"]
        for name in bracex.expand(pattern.removeprefix(ROOT))
    ]
    return [f"{books.absolute()}/{name}" for name in names if any(books.glob(name))]


def held_out(chapters: dict[str, dict[str, str]], rng: np.random.Generator) -> dict[str, list[str]]:
    """Addresses that are kept from the corpus, by author; none of who has a single file."""
    kept = {}
    for author, files in chapters.items():
        if len(files) > 1:
            count = max(1, round(HELD_OUT * len(files)))
            kept[author] = [str(one) for one in rng.permutation(list(files))[:count]]
    return kept


def questions(
    chapters: dict[str, dict[str, str]],
    kept: dict[str, list[str]],
    count: int,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """So many sentences of each author, cut in the middle."""
    for author, files in kept.items():
        sentences = [
            words
            for file in files
            for sentence in _SENTENCE_END.split(" ".join(chapters[author][file].split()))
            if FEWEST_WORDS <= len(words := sentence.split()) <= MOST_WORDS
        ]
        for place, number in enumerate(rng.permutation(len(sentences))[:count]):
            words = sentences[number]
            yield {
                "query_id": f"{author}/{place}",
                "prompt": " ".join(words[: len(words) // 2]),
                "completion": " " + " ".join(words[len(words) // 2 :]),
                "metadata": {"author": author},
            }


def configured(folder: Path, run: str, documents: Iterable[str], seed: int) -> RunConfig:
    """The configuration with the addresses of this machine."""
    read, folder = yaml.safe_load(CONFIG.read_text("utf-8")), folder.resolve()
    read |= {
        "run": str(folder / run),
        "model": str(folder / "model"),
        "queries": str(folder / "queries.jsonl"),
        "seed": seed,
        "device": "cpu",
    }
    read["corpus"] |= {
        "documents": [str(Path.cwd() / one) for one in documents],
        "path": str(folder / "corpus"),
    }
    written = folder / f"{run}.yaml"
    written.write_text(yaml.safe_dump(read, sort_keys=False), encoding="utf-8")
    return RunConfig.load(written)


def trained(folder: Path, texts: list[str], documents: list[str], seed: int, epochs: int) -> float:
    """Tokenise documents, and train a model on what comes of them; the loss at its end."""
    tokenizer = train_tokenizer(texts, SIZES)
    tokenizer.save_pretrained(folder / "model")
    model = new_model(SIZES, seed)
    model.save_pretrained(folder / "model")
    with Run(configured(folder, "tokenized", documents, seed)) as run:
        rows = [row.tolist() for row in all_sequences(run.tokenize())]
    settings = TrainingSettings(epochs=epochs, threads=1)
    loss = train_shown(model, rows, seed, settings, Console(quiet=True))
    model.save_pretrained(folder / "model")
    return loss


def all_sequences(corpus: Corpus) -> Iterator[Any]:
    """The token ids of each sequence."""
    for split in corpus.plan(2**20):
        yield from sequences_of(corpus.read(split))


def figures_of(results: Results) -> list[dict[str, Any]]:
    """Of each question: who wrote it, whether he is first, and his shares of the ten and of all."""
    groups = results.groups.to_pylist()
    found = []
    for query_id, query in results.queries.items():
        author = query["metadata"]["author"]
        of_query = [group for group in groups if group["query_id"] == query_id]
        first = max(of_query, key=lambda group: group["mean_score"])
        hits = results.proponents(query_id, K)
        by_author = [hit.metadata["author"] == author for hit in hits]
        shares = {group["value"]: group["share_of_corpus"] for group in of_query}
        found.append(
            {
                "author": author,
                "first": float(first["value"] == author),
                # A place that no sequence has is by nobody.
                "hits": sum(by_author) / K,
                "share": shares[author],
                "authors": len(of_query),
            }
        )
    return found


def once(books: Path, folder: Path, seed: int, epochs: int, count: int) -> dict[str, Any]:
    """One seed: the figures of every question, by method."""
    rng = np.random.default_rng([seed, 5])
    chapters = chapters_of(books)
    kept = held_out(chapters, rng)
    asked = list(questions(chapters, kept, count, rng))
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in asked)
    (folder / "queries.jsonl").write_text(lines, encoding="utf-8")
    without = {url for urls in kept.values() for url in urls}
    every = {url: text for files in chapters.values() for url, text in files.items()}
    texts = {url: text for url, text in every.items() if url not in without}
    started = time.monotonic()
    loss = trained(folder, list(texts.values()), list(texts), seed, epochs)
    seconds = time.monotonic() - started
    with Run(configured(folder, "run", texts, seed)) as run:
        results = run.all()
        corpus = Corpus.open(Store(str(folder / "corpus")))
    print(
        f"seed {seed}: {len(texts)} files, {corpus.size}, {len(without)} files held out, trained "
        f"in {seconds:.0f} s to a loss of {loss:.2f}; {len(asked)} sentences asked in "
        f"{time.monotonic() - started - seconds:.0f} s",
        flush=True,
    )
    return {method: figures_of(found) for method, found in results.items()}


def ranged(found: list[float]) -> str:
    """A mean over seeds, in brackets the least and the largest."""
    several = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
    return f"{statistics.mean(found):.2f}{several}"


def show(seeds: list[dict[str, Any]]) -> None:
    """Tables of the seeds so far: of methods, and of authors by the first method."""
    first = next(iter(seeds[0]))

    def means(method: str, key: str, author: str | None = None) -> list[float]:
        of = [[one for one in seed[method] if author in (None, one["author"])] for seed in seeds]
        return [statistics.mean(one[key] for one in found) for found in of]

    print(f"\n| | author first by mean score | of the first {K} by the author |")
    print("| --- | --- | --- |")
    for method in seeds[0]:
        cells = [ranged(means(method, key)) for key in ("first", "hits")]
        print(f"| `{method}` | {' | '.join(cells)} |")
    chance = [statistics.mean(1 / one["authors"] for one in seed[first]) for seed in seeds]
    print(f"| chance | {ranged(chance)} | {ranged(means(first, 'share'))} |")
    print(f"\n| author, by `{first}` | first | of the first {K} | share of the corpus |")
    print("| --- | --- | --- | --- |")
    for author in dict.fromkeys(one["author"] for one in seeds[0][first]):
        cells = [ranged(means(first, key, author)) for key in ("first", "hits", "share")]
        print(f"| {author} | {' | '.join(cells)} |")


def main() -> None:
    """All seeds, and the tables after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("books", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--questions", type=int, default=6, help="of each author")
    parser.add_argument("--folder", type=Path, help="where everything is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with contextlib.ExitStack() as stack:
        root = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for seed in options.seeds:
            folder = root.absolute() / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            found.append(once(options.books, folder, seed, options.epochs, options.questions))
            show(found)


if __name__ == "__main__":
    main()
