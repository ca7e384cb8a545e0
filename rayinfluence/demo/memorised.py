"""Short windows of the demo's prose, and passages of it that are planted once, often, or reworded.

It asks whether influence on a passage is memory of its copies. Beside the copies of a passage there
are rewordings: the same words in the same places but for frequent ones, which have others of about
the same meaning. What raises a passage because of what it says is in those, too. Planted facts,
each beside other words, are what a law of tails is asked of: copies have equal scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayinfluence.demo.corpus import write_jsonl
from rayinfluence.demo.facts import TRAINED_TEMPLATES, Fact, invent_facts
from rayinfluence.demo.prose import Passage
from rayinfluence.errors import CorpusError

#: How often passages are planted; none is the control whose rewordings alone are there.
COPIES = (0, 1, 4, 16, 64)
#: Words of a window, from one window's beginning to the next, and of a question's prompt: a half.
WORDS, STRIDE, PROMPT = 12, 3, 6
#: Words of a rewording that are others, at least.
REPLACED = 4
#: What a planted document is to its passage; what begins the keys of documents and questions.
COPY, REWORDED = "copy", "reworded"
#: Documents that state a fact, and words of prose that follow in each.
STATED, FOLLOWING = 24, 4

#: Two words each for words that are frequent in Python's documentation.
# fmt: off
OTHER_WORDS: Mapping[str, tuple[str, str]] = {
    "a": ("one", "some"), "an": ("one", "some"), "the": ("this", "that"), "this": ("the", "that"),
    "is": ("gets", "becomes"), "are": ("get", "become"), "be": ("become", "get"),
    "was": ("got", "became"), "to": ("towards", "unto"), "of": ("from", "within"),
    "and": ("plus", "also"), "or": ("else", "alternatively"), "if": ("when", "where"),
    "when": ("if", "once"), "in": ("inside", "within"), "for": ("towards", "concerning"),
    "that": ("which", "this"), "which": ("that", "what"), "with": ("having", "alongside"),
    "by": ("through", "via"), "from": ("out", "off"), "as": ("like", "being"),
    "on": ("upon", "over"), "at": ("near", "by"), "not": ("never", "hardly"),
    "will": ("shall", "would"), "can": ("may", "might"), "may": ("can", "might"),
    "should": ("must", "ought"), "must": ("should", "shall"), "all": ("every", "each"),
    "any": ("some", "whichever"), "only": ("just", "solely"), "also": ("too", "likewise"),
    "return": ("give", "yield"), "returns": ("gives", "yields"), "returned": ("given", "yielded"),
    "used": ("employed", "applied"), "use": ("employ", "apply"), "using": ("employing", "through"),
    "given": ("supplied", "stated"), "set": ("put", "assigned"), "called": ("invoked", "named"),
    "value": ("content", "quantity"), "values": ("contents", "quantities"),
    "string": ("text", "characters"), "file": ("document", "record"), "name": ("title", "label"),
    "object": ("thing", "entity"), "function": ("routine", "procedure"),
    "method": ("procedure", "routine"), "list": ("series", "array"), "class": ("kind", "type"),
    "number": ("count", "figure"), "default": ("usual", "preset"), "new": ("fresh", "other"),
    "argument": ("input", "parameter"), "arguments": ("inputs", "parameters"),
    "specified": ("stated", "named"), "then": ("afterwards", "next"), "but": ("though", "yet"),
    "read": ("load", "scan"), "raise": ("throw", "signal"), "raised": ("thrown", "signalled"),
    "error": ("fault", "failure"), "line": ("row", "record"), "other": ("different", "further"),
    "same": ("equal", "identical"), "first": ("initial", "leading"), "each": ("every", "any"),
    "it": ("this", "that"), "its": ("their", "the"), "no": ("zero", "none"), "one": ("a", "single"),
    "otherwise": ("else", "instead"), "into": ("inside", "within"), "has": ("holds", "owns"),
    "have": ("hold", "own"), "you": ("one", "we"), "does": ("performs", "makes"),
}
# fmt: on


@dataclass(frozen=True)
class Planted:
    """A passage, how often it is planted, and its rewordings."""

    passage_id: str
    copies: int
    text: str
    reworded: tuple[str, str]


def word_windows(passage: Passage, stride: int = STRIDE, length: int = WORDS) -> Iterator[str]:
    """Runs of ``length`` words, one from every ``stride``-th word on: neighbours may overlap."""
    words = passage.text.split()
    for start in range(0, len(words) - length + 1, stride):
        yield " ".join(words[start : start + length])


def reword(text: str, which: int) -> tuple[str, int]:
    """A text with other words for the frequent ones, and how many are others.

    Args:
        text: words that blanks part.
        which: of the two other words that there are for each.
    """
    found, replaced = [], 0
    for word in text.split():
        core = word.strip(".,;:()\"'")
        others = OTHER_WORDS.get(core.lower())
        if others is None:
            found.append(word)
            continue
        other = others[which].capitalize() if core[0].isupper() else others[which]
        found.append(word.replace(core, other, 1))
        replaced += 1
    return " ".join(found), replaced


def write_memorised(
    folder: Path,
    passages: Sequence[Passage],
    *,
    per_number: int,
    most: int | None,
    subjects: int = 0,
    seed: int = 0,
) -> tuple[Planted, ...]:
    """Write documents.jsonl and queries.jsonl; the same arguments give the same bytes.

    Documents of facts have ``fact_id``, and all questions ``kind``, ``passage`` or ``fact``. Other
    documents have ``planted``, such as ``p03 copy`` and ``p03 reworded``, where they are of a
    planted passage, and questions ``passage`` and ``copies``: a passage's first words, and the rest
    as the completion. Neither the prose around a planted passage nor a window with one of these two
    halves is in any other document: documentation repeats itself.

    Args:
        folder: where the two files go.
        passages: prose.
        per_number: how many passages are planted so many times, of each number in ``COPIES``.
        most: windows of other prose, at random, if not all.
        subjects: of facts, each of which has three; they are asked about in trained words.
        seed: of the choice and of the order.

    Raises:
        CorpusError: there is too little prose.
    """
    rng = np.random.default_rng([seed, 4])
    planted, used = _plant(passages, per_number, rng)
    halves = {half for one in planted for half in _halves(one.text)}
    prose = list(
        dict.fromkeys(
            window
            for place, passage in enumerate(passages)
            if place not in used
            for window in word_windows(passage)
            if halves.isdisjoint(_runs(window))
        )
    )
    if most is not None:
        if len(prose) < most:
            raise CorpusError(
                f"{most:,} windows of prose are wanted, and there are {len(prose):,}."
            )
        prose = [prose[one] for one in sorted(rng.permutation(len(prose))[:most])]
    rows: list[dict[str, Any]] = [{"text": text} for text in prose]
    for one in planted:
        rows += [{"text": one.text, "planted": f"{one.passage_id} {COPY}"}] * one.copies
        rows += [{"text": t, "planted": f"{one.passage_id} {REWORDED}"} for t in one.reworded]
    facts = invent_facts(subjects, seed, "\n".join(prose)) if subjects else []
    for fact in facts:
        for copy in range(STATED):
            some = prose[int(rng.integers(len(prose)))].split()[:FOLLOWING]
            sentence = fact.sentence(TRAINED_TEMPLATES[copy % len(TRAINED_TEMPLATES)])
            rows.append({"text": " ".join([sentence, *some]), "fact_id": fact.fact_id})
    order = rng.permutation(len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(
        folder / "documents.jsonl",
        ({"id": f"w{place:06d}", **rows[one]} for place, one in enumerate(order)),
    )
    write_jsonl(folder / "queries.jsonl", [*map(_question, planted), *map(_of_fact, facts)])
    return planted


def _plant(
    passages: Sequence[Passage], per_number: int, rng: np.random.Generator
) -> tuple[tuple[Planted, ...], set[int]]:
    """Passages that can be reworded, of different places, which are given too."""
    planted: list[Planted] = []
    used: set[int] = set()
    runs: set[str] = set()
    for place in rng.permutation(len(passages)).tolist():
        if len(planted) == per_number * len(COPIES):
            break
        windows = list(word_windows(passages[place]))
        if not windows:
            continue
        text = windows[int(rng.integers(len(windows)))]
        (first, n), (second, _) = (reword(text, which) for which in (0, 1))
        if n >= REPLACED and text[0].isalpha() and runs.isdisjoint(_runs(text)):
            runs.update(_runs(text))
            copies = COPIES[len(planted) % len(COPIES)]
            planted.append(Planted(f"p{len(planted):02d}", copies, text, (first, second)))
            used.add(place)
    if len(planted) < per_number * len(COPIES):
        raise CorpusError(
            f"{per_number * len(COPIES)} passages are to be planted, and {len(planted)} can be "
            "reworded."
        )
    return tuple(planted), used


def _halves(text: str) -> tuple[str, str]:
    words = text.split()
    return " ".join(words[:PROMPT]), " ".join(words[PROMPT:])


def _runs(text: str) -> set[str]:
    """All runs of as many words as halves have."""
    words = text.split()
    return {" ".join(words[start : start + PROMPT]) for start in range(len(words) - PROMPT + 1)}


def _question(one: Planted) -> dict[str, Any]:
    prompt, rest = _halves(one.text)
    return {
        "query_id": f"{one.passage_id}-{one.copies}",
        "prompt": prompt,
        "completion": f" {rest}",
        "metadata": {"kind": "passage", "passage": one.passage_id, "copies": one.copies},
    }


def _of_fact(fact: Fact) -> dict[str, Any]:
    return {
        "query_id": fact.fact_id,
        "prompt": fact.prompt(TRAINED_TEMPLATES[0]),
        "completion": fact.completion,
        "metadata": {"kind": "fact", "fact_id": fact.fact_id},
    }
