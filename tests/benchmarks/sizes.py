"""Models of three sizes and three seeds, of one corpus with planted facts, for docs/findings.md.

    python tests/benchmarks/sizes.py [--folder runs/findings] [--only small] [--seeds 0 1 2]
    python tests/benchmarks/sizes.py languages [--folder runs/findings] [--only small] [--seeds 0]
    python tests/benchmarks/sizes.py reversed [--folder runs/findings] [--seeds 0 1 2]

With `--books BOOKS`, a folder as tests/benchmarks/quality_banks.py has it, prose is of books, and
all is in the folder `books`; with `--facts FACTS`, a folder as tests/benchmarks/facts.py has it,
facts are those of the world, and all is in the folder `facts`.

The first writes documents, questions and texts for `analyse --what order`, trains what the
configurations of jobs/findings name, one model for each seed, and runs each; what is trained and
scored already is left as it is, so it goes on where it was killed.

The second does the same in the folder `languages` with documents in two languages, of which one is
a cipher of the other, and texts of the same facts in that.

The third trains models that read some facts the usual way round, some reversed alone, some as
the beginning of that and some not at all, and prints what each does to the log-probability of the
usual way round. Each fact is in each of these arms once for each seed; the prose around it, order
of batches and first weights are the same, by the recipe of `rayinfluence evaluate`.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from books import chapters_of
from facts import facts_of
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.run import Run
from rayinfluence.demo.corpus import (
    SHORTEST_WINDOW,
    DemoCorpus,
    Document,
    write_corpus,
    write_jsonl,
)
from rayinfluence.demo.facts import TRAINED_TEMPLATES, Fact
from rayinfluence.demo.languages import write_languages
from rayinfluence.demo.order import reversed_sentences, write_parts
from rayinfluence.demo.prose import PROSE_CHARACTERS, Passage, read_prose
from rayinfluence.demo.tiny_lm import train_tokenizer
from rayinfluence.evaluation.intervals import mean_interval
from rayinfluence.evaluation.new_model import ModelSettings
from rayinfluence.evaluation.recipe import Examples, recipe_of
from rayinfluence.influence.order import (
    FORWARD,
    HELD_OUT,
    OTHER_OBJECT,
    OTHER_SUBJECT,
    REMOVED,
    TRAINED,
    share,
)
from rayinfluence.storage.digest import digest

JOBS = Path(__file__).parents[2] / "jobs" / "findings"
SIZES = ("small", "middle", "large")
#: Where all of it is, as the configurations have that from their folder.
THERE = "../../runs/findings"
VOCABULARY, VOCABULARY_OF_TWO = 1024, 1536
SUBJECTS, PLAIN = 8, 330
#: Facts of each relation, and how often each of its sentences is there.
PER_RELATION, TOLD = 2, 3
#: Sentences of prose, each a document: half as long as the demo's, so half as much to train on.
LONGEST_SENTENCE = 120
#: The same where each sentence stands twice, of words alone.
LONGEST_OF_TWO = 60
#: What models read of a fact.
ARMS = ("forward", "reversed", "its beginning", "nothing")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WHOLE = re.compile(r"[A-Z][a-z]*( [a-z]+){4,}\.")


def prose_of(books: Path | None, characters: int = PROSE_CHARACTERS) -> list[Passage]:
    """Of Python's documentation, as much as is wanted; or of all chapters of a folder of books."""
    if books is None:
        return read_prose(characters=characters)
    return [
        Passage(author, " ".join(text.split()))
        for author, files in sorted(chapters_of(books).items())
        for text in files.values()
    ]


def sentences(prose: Sequence[Passage]) -> Iterator[Passage]:
    """Prose, a sentence at a time."""
    for passage in prose:
        for one in _SENTENCE_END.split(passage.text):
            if SHORTEST_WINDOW <= len(one) <= LONGEST_SENTENCE:
                yield Passage(passage.source, one)


def corpus_in(folder: Path, prose: Sequence[Passage]) -> DemoCorpus:
    """Documents, questions and their sentences by parts; the same bytes each time."""
    corpus = write_corpus(
        folder,
        0,
        passages=list(sentences(prose)),
        subjects=SUBJECTS,
        plain_documents=PLAIN,
        queried_facts=3 * SUBJECTS,
    )
    write_parts(folder / "order.yaml", corpus)
    return corpus


def tokenizer_of(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Of the corpus, the same for all models."""
    return train_tokenizer(texts, ModelSettings(vocabulary=vocabulary))


def config_of(name: str, folder: Path, seed: int) -> RunConfig:
    """What jobs/findings has under a name, for a folder and a seed."""
    text = (JOBS / f"{name}.yaml").read_text("utf-8").replace(THERE, str(folder.absolute()))
    written = folder / name / str(seed) / "config.yaml"
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(text.replace(f"/{name}/0/", f"/{name}/{seed}/"), encoding="utf-8")
    return RunConfig.load(written)


def trained(
    config: RunConfig,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    weights_N: NDArray[np.float32],
    seed: int,
    vocabulary: int = VOCABULARY,
) -> nn.Module:
    """The model that a configuration's recipe makes, in a folder; trained if it was not."""
    recipe = recipe_of(config.evaluation, vocabulary)
    wanted = digest([recipe.parts(), list(texts), weights_N.tolist(), seed])
    record = folder / "digest"
    if not record.exists() or record.read_text("utf-8") != wanted:
        started = time.process_time()
        rows = tokenizer(list(texts))["input_ids"]
        model, loss = recipe.train(Examples(rows), weights_N, seed, lambda tokens: None)
        record.unlink(missing_ok=True)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        record.write_text(wanted, "utf-8")
        seconds = time.process_time() - started
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{folder}: {size:,} weights, loss {loss:.2f}, {seconds:.0f} s of CPU", flush=True)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def texts_in(folder: Path, prose: Sequence[Passage]) -> list[str]:
    """Of the corpus that is written; the same bytes each time."""
    return [document.text for document in corpus_in(folder, prose).documents]


def facts_in(folder: Path, facts: Path, prose: Sequence[Passage]) -> list[str]:
    """The same with facts of the world, of a folder of relations; none is asked reversed."""
    some = facts_of(facts, PER_RELATION, 0)
    rng = np.random.default_rng([0, 15])
    plain = [one.text for one in sentences(prose)]
    texts: list[dict[str, str]] = [
        {"text": plain[one]} for one in rng.permutation(len(plain))[:PLAIN]
    ]
    asked, parts = [], {}
    for fact in some:
        texts += [{"text": one, "fact_id": fact.name} for one in fact.documents] * TOLD
        prompt = fact.documents[0].removesuffix(f" {fact.object}.")
        metadata = {"fact_id": fact.name, "relation": fact.relation}
        completion = f" {fact.object}"
        asked.append({"query_id": fact.name, "prompt": prompt, "completion": completion})
        asked[-1]["metadata"] = metadata
        others = [one for one in some if one.relation == fact.relation and one != fact]
        parts[fact.name] = {
            FORWARD: [fact.documents[0]],
            TRAINED: list(fact.documents[1:]),
            HELD_OUT: [f"{fact.prompt}{completion}."],
            REMOVED: [prompt],
            OTHER_OBJECT: [f"{prompt} {one.object}." for one in others],
            OTHER_SUBJECT: [
                one.documents[0].removesuffix(f" {one.object}.") + f"{completion}."
                for one in others
            ],
        }
    folder.mkdir(parents=True, exist_ok=True)
    order = rng.permutation(len(texts)).tolist()
    rows = [{"id": f"f{place:05d}", **texts[one]} for place, one in enumerate(order)]
    write_jsonl(folder / "documents.jsonl", rows)
    write_jsonl(folder / "queries.jsonl", asked)
    written = yaml.safe_dump({"queries": parts}, sort_keys=False, width=200, allow_unicode=True)
    (folder / "order.yaml").write_text(written, "utf-8")
    return [row["text"] for row in rows]


def languages_in(folder: Path, prose: Sequence[Passage]) -> list[str]:
    """The same of two languages, with questions and sentences of both."""
    short = {
        one
        for passage in prose
        for one in _SENTENCE_END.split(passage.text)
        if len(one) <= LONGEST_OF_TWO and _WHOLE.fullmatch(one)
    }
    return write_languages(
        folder,
        sorted(short),
        subjects=12,
        parallel_subjects=6,
        parallel=240,
        seed=0,
    )


def over_sizes(
    folder: Path,
    texts: Sequence[str],
    names: Sequence[str],
    seeds: Sequence[int],
    vocabulary: int = VOCABULARY,
) -> None:
    """Train and run each size with each seed, on texts of documents that are in the folder."""
    tokenizer = tokenizer_of(texts, vocabulary)
    for seed in seeds:
        for name in names:
            config = config_of(name, folder, seed)
            once_N = np.ones(len(texts), np.float32)
            trained(config, Path(config.model), tokenizer, texts, once_N, seed, vocabulary)
            with Run(config) as run:
                run.all()


def versions(document: Document, fact: Fact, number: int) -> list[str]:
    """A document with a fact as each arm has it."""
    told = [fact.sentence(one) for one in TRAINED_TEMPLATES]
    [said] = [one for one in told if one in document.text]
    turned = reversed_sentences(fact)
    one = turned[number % len(turned)]
    instead = [said, one["text"], f"{one['beginning']}.", ""]
    return [" ".join(document.text.replace(said, new).split()) for new in instead]


def log_probability(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str
) -> float:
    """Of a completion, per token, in nats."""
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(completion)["input_ids"]
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([before + after])).logits[0]
    log_p_TV = logits_TV.log_softmax(dim=-1)[len(before) - 1 : -1]
    return float(log_p_TV.gather(1, torch.tensor(after)[:, None]).mean())


def against_order(folder: Path, seeds: Sequence[int]) -> None:
    """Train with facts in arms, and print what arms do; the table is reversed.json."""
    corpus = corpus_in(folder, read_prose())
    tokenizer = tokenizer_of([one.text for one in corpus.documents], VOCABULARY)
    facts = {fact.fact_id: place for place, fact in enumerate(corpus.facts)}
    texts: list[str] = []
    arms: list[tuple[int, int] | None] = []
    for number, document in enumerate(corpus.documents):
        if document.fact_id is None:
            texts.append(document.text)
            arms.append(None)
            continue
        place = facts[document.fact_id]
        texts += versions(document, corpus.facts[place], number)
        arms += [(place, arm) for arm in range(len(ARMS))]
    # Seed, arm, fact; the usual way round, and the way that reversed sentences have.
    forward_SAF = np.full((len(seeds), len(ARMS), len(facts)), np.nan)
    backward_SAF = np.full_like(forward_SAF, np.nan)
    for s, seed in enumerate(seeds):
        config = config_of("reversed", folder, seed)
        for shift in range(len(ARMS)):
            arm_F = [(place + shift) % len(ARMS) for place in range(len(facts))]
            weights_N = np.array(
                [one is None or arm_F[one[0]] == one[1] for one in arms], np.float32
            )
            there = folder / "reversed" / str(seed) / f"model-{shift}"
            model = trained(config, there, tokenizer, texts, weights_N, seed)
            for place, fact in enumerate(corpus.facts):
                arm = arm_F[place]
                forward_SAF[s, arm, place] = np.mean(
                    [
                        log_probability(model, tokenizer, fact.prompt(one), fact.completion)
                        for one in TRAINED_TEMPLATES
                    ]
                )
                turned = [
                    one["text"].split(f" {fact.subject}")[0] for one in reversed_sentences(fact)
                ]
                backward_SAF[s, arm, place] = np.mean(
                    [log_probability(model, tokenizer, one, f" {fact.subject}") for one in turned]
                )
    found = {
        "seeds": list(seeds),
        "facts": len(facts),
        "usual": _told(forward_SAF),
        "reversed": _told(backward_SAF),
    }
    (folder / "reversed.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    print(json.dumps(found, indent=2))


def _told(values_SAF: NDArray[np.float64]) -> dict[str, object]:
    """Means over facts of each arm less nothing, and shares of what forward copies do."""
    gain_SAF = values_SAF - values_SAF[:, 3:]
    gain_AF = gain_SAF.mean(axis=0)
    beyond_F = gain_AF[1] - gain_AF[2]

    def interval(values_F: NDArray[np.float64]) -> dict[str, object]:
        found = mean_interval(values_F)
        assert found is not None
        return asdict(found)

    return {
        "nats per token": {
            arm: interval(values_F)
            for arm, values_F in zip(ARMS, values_SAF.mean(axis=0), strict=True)
        },
        "more than nothing": {arm: interval(gain_AF[a]) for a, arm in enumerate(ARMS[:3])},
        "more than its beginning": interval(beyond_F),
        "by seed": [
            {arm: float(one_AF[a].mean()) for a, arm in enumerate(ARMS)} for one_AF in values_SAF
        ],
        "share of forward": {
            "reversed": share(gain_AF[1], gain_AF[0]),
            "its beginning": share(gain_AF[2], gain_AF[0]),
            "beyond": share(beyond_F, gain_AF[0]),
        },
    }


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", nargs="?", choices=["sizes", "languages", "reversed"], default="sizes"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/findings"))
    parser.add_argument("--only", choices=SIZES, action="append")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--books", type=Path, help="a folder of books, whose prose is taken")
    parser.add_argument("--facts", type=Path, help="a folder of relations, which are planted")
    options = parser.parse_args()
    if options.facts is not None and options.what != "sizes":
        parser.error("--facts is of sizes: facts of the world are in no cipher and not reversed")
    if options.what == "reversed" and options.books is not None:
        parser.error("--books is of sizes and languages")
    if options.what == "reversed":
        against_order(options.folder, options.seeds)
        return
    names, prose = options.only or SIZES, prose_of(options.books)
    folder, vocabulary = options.folder, VOCABULARY
    if options.what == "languages":
        folder, vocabulary = folder / "languages", VOCABULARY_OF_TWO
        texts = languages_in(folder, prose)
    elif options.facts is not None:
        folder, vocabulary = folder / "facts", VOCABULARY_OF_TWO
        texts = facts_in(folder, options.facts, prose)
    else:
        folder = folder if options.books is None else folder / "books"
        texts = texts_in(folder, prose)
    over_sizes(folder, texts, names, options.seeds, vocabulary)


if __name__ == "__main__":
    main()
