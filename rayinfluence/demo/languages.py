"""Documents in two languages, of which one is invented, and facts that are told in both.

The invented language has one word for each word of prose, and none of its letters: a cipher, word
for word and in the same order. Half of the facts have their names enciphered as well, with lines
that say which name is which; the other half have the names of the prose in both languages. Facts of
other countries, and sentences of prose, stand in both languages in one document. Questions are in
the language of prose.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rayinfluence.demo.corpus import write_jsonl
from rayinfluence.demo.facts import TRAINED_TEMPLATES, Fact, invent_facts
from rayinfluence.errors import CorpusError
from rayinfluence.influence.order import FORWARD, LANGUAGE

#: How names are in the second language.
ENCIPHERED, SHARED = NAMES = ("enciphered", "shared")
#: Documents that tell a fact, in each language; lines of each name in both; words that follow.
TOLD, LINES, FOLLOWING = 6, 3, 4
#: Of other facts, so many stand beside a sentence in the second language.
_CONTROLS = 3
_WORD = re.compile(r"[^\W\d_]+")
_CONSONANTS, _VOWELS = "βγδζθκλμνξπρστφχψ", "αεηιοω"
#: A word of so many letters at most has two syllables, and a longer one three.
_SHORT = 4


class Cipher:
    """A language with one word for each, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 11])
        self._words: dict[str, str] = {}
        self._taken: set[str] = set()

    def word(self, word: str) -> str:
        """The word for one, with a capital where that has one."""
        key = word.casefold()
        if key not in self._words:
            made = self._made(key)
            while made in self._taken:
                made = self._made(key)
            self._taken.add(made)
            self._words[key] = made
        found = self._words[key]
        return found.capitalize() if word[0].isupper() else found

    def text(self, text: str, kept: Iterable[str] = ()) -> str:
        """A text word for word; some words stay as they are."""
        stay = frozenset(kept)
        return _WORD.sub(lambda m: m[0] if m[0] in stay else self.word(m[0]), text)

    def _made(self, word: str) -> str:
        return "".join(
            letters[int(self._rng.integers(len(letters)))]
            for _ in range(2 if len(word) <= _SHORT else 3)
            for letters in (_CONSONANTS, _VOWELS)
        )


def write_languages(
    folder: Path,
    sentences: Sequence[str],
    *,
    subjects: int,
    parallel_subjects: int,
    parallel: int,
    seed: int,
) -> list[str]:
    """Write documents.jsonl, queries.jsonl and language.yaml; the texts.

    Documents have ``language`` (``plain``, ``cipher``, ``both`` or ``names``), ``fact_id`` where
    they tell a fact that is asked, and ``enciphered_of`` or ``shared_of`` with the same where they
    tell it in the cipher. Questions have the same keys, and ``names``: ``enciphered`` or
    ``shared``. The third file is for ``analyse --probes``: with each question its fact in the
    cipher, and as controls other facts of the relation in the cipher, told as often.

    Args:
        folder: where the files go.
        sentences: of prose.
        subjects: countries that are asked about, half of each kind of names; each has three facts.
        parallel_subjects: countries that are not, whose facts stand in both languages.
        parallel: sentences of prose that do.
        seed: of all choices, and of the order.

    Raises:
        CorpusError: there is too little prose.
    """
    if len(sentences) < parallel:
        raise CorpusError(f"{parallel:,} sentences are wanted, and there are {len(sentences):,}.")
    rng = np.random.default_rng([seed, 12])
    prose = _frequent(sentences)[:parallel]
    facts = invent_facts(subjects + parallel_subjects, seed, "\n".join(prose))
    countries = list(dict.fromkeys(fact.subject for fact in facts))
    names = {country: NAMES[place % 2] for place, country in enumerate(countries)}
    asked = [fact for fact in facts if fact.subject in countries[:subjects]]
    cipher = Cipher(seed)

    def told(fact: Fact, template: int) -> str:
        kept = (fact.subject, fact.object) if names[fact.subject] == SHARED else ()
        return cipher.text(fact.sentence(template), kept)

    rows = [
        *({"text": f"{one} {cipher.text(one)}", "language": "both"} for one in prose),
        *_told_in_both([fact for fact in facts if fact not in asked], told),
        *_names(asked, names, cipher),
    ]
    for fact in asked:
        key = {"fact_id": fact.fact_id}
        for copy in range(TOLD):
            template = TRAINED_TEMPLATES[copy % len(TRAINED_TEMPLATES)]
            after = _beginning(prose, rng)
            rows.append({"text": f"{fact.sentence(template)} {after}", "language": "plain", **key})
            text = f"{told(fact, template)} {cipher.text(_beginning(prose, rng))}"
            rows.append({"text": text, "language": "cipher", **key, **_of(fact, names)})
    order = rng.permutation(len(rows)).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    documents = [{"id": f"l{place:05d}", **rows[one]} for place, one in enumerate(order)]
    write_jsonl(folder / "documents.jsonl", documents)
    templates = {fact.fact_id: int(rng.choice(TRAINED_TEMPLATES)) for fact in asked}
    queries = (_question(fact, templates[fact.fact_id], names) for fact in asked)
    write_jsonl(folder / "queries.jsonl", queries)
    values: dict[str, Any] = {}
    for fact in asked:
        template = templates[fact.fact_id]
        text = told(fact, template)
        controls = [told(one, template) for one in _controls(fact, asked, names)]
        pairs = [{"text": text, "control": control} for control in controls]
        values[fact.fact_id] = {FORWARD: [fact.sentence(template)], LANGUAGE: pairs}
    written = yaml.safe_dump({"queries": values}, sort_keys=False, width=200, allow_unicode=True)
    (folder / "language.yaml").write_text(written, encoding="utf-8")
    return [row["text"] for row in documents]


def _frequent(sentences: Sequence[str]) -> list[str]:
    """Those with the most frequent words first: by the rarest word of each."""
    words = {one: _WORD.findall(one.casefold()) for one in dict.fromkeys(sentences)}
    counts = Counter(word for some in words.values() for word in some)
    return sorted(words, key=lambda one: (-min((counts[w] for w in words[one]), default=0), one))


def _beginning(prose: Sequence[str], rng: np.random.Generator) -> str:
    return " ".join(prose[int(rng.integers(len(prose)))].split()[:FOLLOWING])


def _told_in_both(
    facts: Sequence[Fact], told: Callable[[Fact, int], str]
) -> Iterator[dict[str, str]]:
    for fact in facts:
        for template in TRAINED_TEMPLATES:
            yield {"text": f"{fact.sentence(template)} {told(fact, template)}", "language": "both"}


def _names(
    facts: Sequence[Fact], names: dict[str, str], cipher: Cipher
) -> Iterator[dict[str, str]]:
    """Enciphered names beside those of prose, now one first and now the other."""
    some = [fact for fact in facts if names[fact.subject] == ENCIPHERED]
    for name in dict.fromkeys(name for fact in some for name in (fact.subject, fact.object)):
        for line in range(LINES):
            both = (name, cipher.word(name))
            yield {"text": " is ".join(both[:: -1 if line % 2 else 1]), "language": "names"}


def _of(fact: Fact, names: dict[str, str]) -> dict[str, str]:
    return {f"{names[fact.subject]}_of": fact.fact_id}


def _question(fact: Fact, template: int, names: dict[str, str]) -> dict[str, Any]:
    metadata = {"fact_id": fact.fact_id, "names": names[fact.subject], **_of(fact, names)}
    return {
        "query_id": fact.fact_id,
        "prompt": fact.prompt(template),
        "completion": fact.completion,
        "metadata": metadata,
    }


def _controls(fact: Fact, facts: Sequence[Fact], names: dict[str, str]) -> list[Fact]:
    """Other facts of the relation, with names of the same kind.

    They are told as often as the fact is: what a model has not read surprises it, and has more
    influence for that alone.
    """
    alike = [
        one
        for one in facts
        if one.relation == fact.relation
        and one.subject != fact.subject
        and names[one.subject] == names[fact.subject]
    ]
    return alike[:_CONTROLS]
