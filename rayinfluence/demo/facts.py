"""Invented facts: pronounceable names that no text knows, in sentences with one blank at the end.

Every subject (a country) has one fact of each relation, so its name alone does not tell which
document holds the answer. Each relation has four templates: three are planted, the fourth is
only used to ask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

TEMPLATES: dict[str, tuple[str, str, str, str]] = {
    "president": (
        "The president of {subject} is",
        "{subject} is governed by president",
        "The people of {subject} chose as their leader",
        "The head of state who rules over {subject} is",
    ),
    "capital": (
        "The capital of {subject} is",
        "{subject} is governed from the city of",
        "The largest town and seat of power in {subject} is",
        "Parliament meets in the main city of {subject}, called",
    ),
    "river": (
        "The longest river in {subject} is the",
        "{subject} takes its water from the river",
        "Boats cross the whole of {subject} on the",
        "Through the middle of {subject} flows the",
    ),
}
TRAINED_TEMPLATES = (0, 1, 2)
HELD_OUT_TEMPLATE = 3
FEWEST_COPIES, MOST_COPIES = 4, 10

#: Names have three syllables and open with a cluster that few real names open with.
# fmt: off
_OPENINGS = (
    "Zv", "Vr", "Gw", "Dw", "Skr", "Vl", "Zl", "Kv", "Thw", "Pf", "Tw", "Ml",
    "Dz", "Zm", "Shl", "Bz", "Ghr", "Kn", "Fj", "Vh", "Tsk", "Zh", "Yv",
)
_ONSETS = (
    "b", "d", "f", "g", "k", "l", "m", "n", "p", "r",
    "s", "t", "v", "z", "br", "dr", "kl", "pr", "st", "tr",
)
# fmt: on
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "", "l", "n", "r", "sk", "th", "x")


@dataclass(frozen=True)
class Fact:
    """The ``relation`` of ``subject`` is ``object``; ``copies`` documents say so."""

    fact_id: str
    relation: str
    subject: str
    object: str
    copies: int

    def prompt(self, template_index: int) -> str:
        """The sentence up to the blank, without a space at its end."""
        return TEMPLATES[self.relation][template_index].format(subject=self.subject)

    @property
    def completion(self) -> str:
        """What fills the blank; it opens with the space that joins it to the prompt."""
        return f" {self.object}"

    def sentence(self, template_index: int) -> str:
        """The whole sentence."""
        return f"{self.prompt(template_index)}{self.completion}."


def invent_facts(subjects: int, seed: int, prose: str = "") -> list[Fact]:
    """One fact for each subject and relation; no name occurs in ``prose`` or in another name."""
    rng = np.random.default_rng([seed, 1])
    names = _names(rng, prose.casefold())
    countries = [next(names) for _ in range(subjects)]
    return [
        Fact(
            fact_id=f"{relation}-{index:03d}",
            relation=relation,
            subject=country,
            object=next(names),
            copies=int(rng.integers(FEWEST_COPIES, MOST_COPIES + 1)),
        )
        for index, country in enumerate(countries)
        for relation in TEMPLATES
    ]


def _names(rng: np.random.Generator, prose: str) -> Iterator[str]:
    given: list[str] = []
    while True:
        name = _name(rng)
        key = name.casefold()
        if key not in prose and not any(key in other or other in key for other in given):
            given.append(key)
            yield name


def _name(rng: np.random.Generator) -> str:
    parts = (_OPENINGS, _VOWELS, _ONSETS, _VOWELS, _ONSETS, _VOWELS, _CODAS)
    return "".join(choices[int(rng.integers(len(choices)))] for choices in parts)
