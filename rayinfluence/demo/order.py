"""The sentences of planted facts by parts, for `rayinfluence analyse --what order`.

All but the reversed ones are in the words of the query, so that they differ in what they are named
after alone. A reversed sentence has words before the object: at the beginning of a text its tokens
would be others than those that the query asks for, which come after a space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from rayinfluence.demo.corpus import DemoCorpus
from rayinfluence.demo.facts import HELD_OUT_TEMPLATE, TEMPLATES, TRAINED_TEMPLATES, Fact
from rayinfluence.demo.variants import FLIPPED
from rayinfluence.influence.order import (
    FORWARD,
    HELD_OUT,
    OTHER_OBJECT,
    OTHER_RELATION,
    OTHER_SUBJECT,
    REMOVED,
    REVERSED,
    TRAINED,
    UNRELATED,
)

_BEFORE = ("As everyone knows,", "Today")
#: Of other facts, so many each.
_OTHERS = 3


def reversed_sentences(fact: Fact) -> list[dict[str, str]]:
    """The fact the other way round, and of each sentence what ends with the object."""
    return [
        {
            "text": f"{before}{fact.completion} is {FLIPPED[fact.relation]} {fact.subject}.",
            "beginning": f"{before}{fact.completion}",
        }
        for before in _BEFORE
    ]


def parts(fact: Fact, facts: Sequence[Fact], template: int) -> dict[str, Any]:
    """Texts by part, for the question about a fact in the words of a template.

    Args:
        fact: that is asked about.
        facts: all of them.
        template: of the question.
    """
    others = [one for one in facts if one.subject != fact.subject]
    alike = list(islice((one for one in others if one.relation == fact.relation), _OTHERS))
    unlike = list(islice((one for one in others if one.relation != fact.relation), _OTHERS))
    relations = [one for one in TEMPLATES if one != fact.relation]
    return {
        FORWARD: [fact.sentence(template)],
        TRAINED: [fact.sentence(one) for one in TRAINED_TEMPLATES if one != template],
        HELD_OUT: [fact.sentence(HELD_OUT_TEMPLATE)],
        REMOVED: [fact.prompt(template)],
        OTHER_OBJECT: [replace(fact, object=one.object).sentence(template) for one in alike],
        OTHER_SUBJECT: [replace(fact, subject=one.subject).sentence(template) for one in alike],
        OTHER_RELATION: [replace(fact, relation=one).sentence(template) for one in relations],
        UNRELATED: [one.sentence(template) for one in unlike],
        REVERSED: reversed_sentences(fact),
    }


def parts_of_corpus(corpus: DemoCorpus) -> Mapping[str, dict[str, Any]]:
    """Texts by part for each question in trained words, by its id."""
    facts = {fact.fact_id: fact for fact in corpus.facts}
    found = {}
    for query in corpus.queries:
        if not query.held_out:
            fact = facts[query.fact_id]
            prompts = [fact.prompt(one) for one in TRAINED_TEMPLATES]
            template = TRAINED_TEMPLATES[prompts.index(query.prompt)]
            found[query.query_id] = parts(fact, corpus.facts, template)
    return found


def write_parts(path: Path, corpus: DemoCorpus) -> None:
    """Write them as a file for ``--probes``."""
    values = {"queries": dict(parts_of_corpus(corpus))}
    path.write_text(yaml.safe_dump(values, sort_keys=False, width=200), encoding="utf-8")
