"""Models of three sizes and three seeds, of one corpus with planted facts, for docs/findings.md.

    python tests/benchmarks/sizes.py [--folder runs/findings] [--only small] [--seeds 0 1 2]
    python tests/benchmarks/sizes.py reversed [--folder runs/findings]

The first writes documents, questions and texts for `analyse --what order`, trains what the
configurations of jobs/findings name, one model for each of their seeds, and runs each; what is
trained and scored already is left as it is, so it goes on where it was killed.

The second trains models that see some facts the usual way round, some reversed alone, some with
the object's name alone and some not at all, and prints what each does to the log-probability of
the usual way round: docs/findings.md says how it is read.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.demo.corpus import LONGEST_WINDOW, SHORTEST_WINDOW, DemoCorpus, write_corpus
from rayinfluence.demo.prose import Passage, read_prose
from rayinfluence.demo.tiny_lm import train_tokenizer
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.recipe import Examples, recipe_of
from rayinfluence.storage.digest import digest

JOBS = Path(__file__).parents[2] / "jobs" / "findings"
SIZES = ("small", "middle", "large")
#: Where all of it is, as the configurations have that from their folder.
THERE = "../../runs/findings"
VOCABULARY = 1024
SUBJECTS, PLAIN = 8, 330
#: Sentences of prose, each a document: half as long as the demo's, so half as much to train on.
LONGEST_SENTENCE = 120
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def sentences() -> Iterator[Passage]:
    """The demo's prose, a sentence at a time."""
    for passage in read_prose():
        for one in _SENTENCE_END.split(passage.text):
            if SHORTEST_WINDOW <= len(one) <= min(LONGEST_SENTENCE, LONGEST_WINDOW):
                yield Passage(passage.source, one)


def corpus_in(folder: Path) -> DemoCorpus:
    """Documents and questions; the same bytes each time."""
    return write_corpus(
        folder,
        0,
        passages=list(sentences()),
        subjects=SUBJECTS,
        plain_documents=PLAIN,
        queried_facts=3 * SUBJECTS,
    )


def tokenizer_of(corpus: DemoCorpus) -> PreTrainedTokenizerFast:
    """Of the corpus, the same for all sizes."""
    texts = [document.text for document in corpus.documents]
    return train_tokenizer(texts, ModelSettings(vocabulary=VOCABULARY))


def config_of(name: str, folder: Path, seed: int) -> RunConfig:
    """What jobs/findings has under a name, for a folder and a seed."""
    text = (JOBS / f"{name}.yaml").read_text("utf-8").replace(THERE, str(folder.absolute()))
    written = folder / name / str(seed) / "config.yaml"
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(text.replace(f"/{name}/0/", f"/{name}/{seed}/"), encoding="utf-8")
    return RunConfig.load(written)


def trained(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    weights_N: list[float],
    seed: int,
) -> torch.nn.Module:
    """The model that a configuration names, by its recipe; trained if it was not."""
    folder = Path(config.model)
    recipe = recipe_of(config.evaluation, VOCABULARY)
    wanted = digest([recipe.parts(), texts, weights_N, seed])
    record = folder / "digest"
    if not record.exists() or record.read_text() != wanted:
        started = time.process_time()
        rows = tokenizer(texts)["input_ids"]
        weights = np.array(weights_N, np.float32)
        model, loss = recipe.train(Examples(rows), weights, seed, lambda tokens: None)
        record.unlink(missing_ok=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        record.write_text(wanted)
        seconds = time.process_time() - started
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{folder}: {size:,} weights, loss {loss:.2f}, {seconds:.0f} s of CPU", flush=True)
    return AutoModelForCausalLM.from_pretrained(folder)


def over_sizes(folder: Path, names: list[str], seeds: list[int]) -> None:
    """Train and run each size with each seed."""
    corpus = corpus_in(folder)
    tokenizer = tokenizer_of(corpus)
    texts = [document.text for document in corpus.documents]
    for seed in seeds:
        for name in names:
            config = config_of(name, folder, seed)
            trained(config, tokenizer, texts, [1.0] * len(texts), seed)
            with Run(config) as run:
                run.all()


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["sizes", "reversed"], default="sizes")
    parser.add_argument("--folder", type=Path, default=Path("runs/findings"))
    parser.add_argument("--only", choices=SIZES, action="append")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    over_sizes(options.folder, options.only or list(SIZES), options.seeds)


if __name__ == "__main__":
    main()
