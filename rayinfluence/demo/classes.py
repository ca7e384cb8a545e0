"""Documents and questions of six kinds, which a model may answer at different depths.

Planted facts, prose that is there once, passages that are there often, copying, translation by a
cipher of words, and arithmetic modulo 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from rayinfluence.demo.corpus import windows, write_jsonl
from rayinfluence.demo.facts import TRAINED_TEMPLATES, invent_facts
from rayinfluence.demo.prose import Passage
from rayinfluence.errors import CorpusError

FACTS, PROSE, PASSAGES, COPYING, CIPHER, ARITHMETIC = CLASSES = (
    "facts",
    "prose",
    "verbatim passages",
    "copying",
    "cipher",
    "arithmetic",
)
#: Documents of copying and of the cipher, words that these have, and how often a passage is there.
DOCUMENTS, WORDS, OFTEN = 240, 5, 10
_MODULUS = 7
#: Words that the cipher has others for.
_CIPHERED = (
    *("file", "object", "value", "string", "method", "class", "list", "name"),
    *("function", "module", "default", "argument", "returns", "raises", "reads", "writes"),
    *("opens", "closes", "calls", "holds", "takes", "gives", "finds", "keeps"),
)
_SYLLABLES = ("ba", "do", "fi", "gu", "ke", "lo", "mi", "na", "pu", "re", "so", "ti", "vu", "za")
_SUMS = ("{a} plus {b} modulo 7 is", "modulo 7 the sum of {a} and {b} is", "{a} + {b} mod 7 =")


@dataclass(frozen=True)
class Asked:
    """A question; its text is prompt and completion, one after the other."""

    prompt: str
    completion: str


#: Texts of a class, and questions to which these are the answer.
_Made = tuple[list[str], list[Asked]]


def write_classes(
    folder: Path, passages: Sequence[Passage], *, prose: int, subjects: int, asked: int, seed: int
) -> None:
    """Write documents.jsonl and queries.jsonl, both with the key ``class``.

    Args:
        folder: where the two files go.
        passages: prose.
        prose: documents of it that are there once.
        subjects: of facts, each of which has three.
        asked: questions of each class, if there are as many.
        seed: of all choices, and of the order.

    Raises:
        CorpusError: there is too little prose.
    """
    found = list(dict.fromkeys(" ".join(w) for passage in passages for w in windows(passage)))
    rng = np.random.default_rng([seed, 8])
    facts = invent_facts(subjects, seed, "\n".join(found))
    wanted = prose + asked + sum(fact.copies for fact in facts)
    if len(found) < wanted:
        raise CorpusError(f"{wanted:,} windows of prose are wanted, and there are {len(found):,}.")
    texts = iter([found[one] for one in rng.permutation(len(found))])

    def stated() -> _Made:
        planted, questions = [], []
        for fact in facts:
            for copy in range(fact.copies):
                sentence = fact.sentence(TRAINED_TEMPLATES[copy % len(TRAINED_TEMPLATES)])
                planted.append(f"{sentence} {next(texts)}")
            questions.append(Asked(fact.prompt(TRAINED_TEMPLATES[0]), fact.completion))
        return planted, questions

    def once() -> _Made:
        some = list(islice(texts, prose))
        return some, [_end(text) for text in some]

    def often() -> _Made:
        some = list(islice(texts, asked))
        return some * OFTEN, [_end(text) for text in some]

    makers: tuple[Callable[[], _Made], ...] = (
        *(stated, once, often),
        *(lambda: _copying(rng), lambda: _cipher(rng), _arithmetic),
    )
    documents: list[dict[str, str]] = []
    queries: list[dict[str, object]] = []
    for name, make in zip(CLASSES, makers, strict=True):
        made, questions = make()
        documents += [{"text": text, "class": name} for text in made]
        for place in sorted(rng.permutation(len(questions))[:asked].tolist()):
            one = questions[place]
            query_id = f"{name.split()[0]}-{place}"
            row = {"query_id": query_id, "prompt": one.prompt, "completion": one.completion}
            queries.append({**row, "metadata": {"class": name}})
    order = rng.permutation(len(documents)).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    rows = ({"id": f"c{place:05d}", **documents[one]} for place, one in enumerate(order))
    write_jsonl(folder / "documents.jsonl", rows)
    write_jsonl(folder / "queries.jsonl", queries)


def _end(text: str) -> Asked:
    """The last words of a text, after those before them."""
    words = text.split()
    return Asked(" ".join(words[:-WORDS]), " " + " ".join(words[-WORDS:]))


def _copying(rng: np.random.Generator) -> _Made:
    """Words without meaning, and the same again; no two documents have the same."""
    texts, questions = [], []
    for _ in range(DOCUMENTS):
        first = " ".join(
            "".join(rng.choice(_SYLLABLES, size=2, replace=False)) for _ in range(WORDS)
        )
        texts.append(f"{first} again {first}")
        questions.append(Asked(f"{first} again", f" {first}"))
    return texts, questions


def _cipher(rng: np.random.Generator) -> _Made:
    """Runs of a few words in two languages, of which the second has one word for each."""
    known = _CIPHERED
    pairs = [a + b for a in _SYLLABLES for b in _SYLLABLES if a != b]
    others = [f"x{pairs[one]}" for one in rng.permutation(len(pairs))[: len(known)]]
    texts, questions = [], []
    for _ in range(DOCUMENTS):
        chosen = rng.choice(len(known), size=WORDS, replace=False).tolist()
        prompt = " ".join(known[one] for one in chosen) + " means"
        completion = "".join(f" {others[one]}" for one in chosen)
        texts.append(f"{prompt}{completion}")
        questions.append(Asked(prompt, completion))
    return texts, questions


def _arithmetic() -> _Made:
    """All sums of two numbers below 7, each in several words."""
    texts, questions = [], []
    for a in range(_MODULUS):
        for b in range(_MODULUS):
            prompts = [one.format(a=a, b=b) for one in _SUMS]
            answer = f" {(a + b) % _MODULUS}"
            texts += [f"{prompt}{answer}" for prompt in prompts]
            questions.append(Asked(prompts[0], answer))
    return texts, questions
