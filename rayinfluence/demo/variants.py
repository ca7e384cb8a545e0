"""A planted fact in other words, in another order and without a part of it: texts to be probed.

The partitions are those of Grosse et al. 2023, figures 24 and 25: what of a sentence has to be
there, and in which order, for it to have influence?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from rayinfluence.demo.facts import TEMPLATES, Fact

#: How a sentence goes on that begins with the object.
FLIPPED = {
    "president": "the president of",
    "capital": "the capital of",
    "river": "the longest river in",
}


def variants(fact: Fact, facts: Sequence[Fact]) -> dict[str, list[str]]:
    """Texts by partition; ``facts`` have others, of other subjects and relations too."""
    others = [one for one in facts if one.subject != fact.subject]
    other = next(one for one in others if one.relation == fact.relation)
    irrelevant = [one for one in others if one.relation != fact.relation][: len(TEMPLATES)]
    templates = range(len(TEMPLATES[fact.relation]))
    relation = FLIPPED[fact.relation]
    return {
        "paraphrases": [fact.sentence(i) for i in templates],
        "completion removed": [fact.prompt(i) for i in templates],
        "another subject": [replace(fact, subject=other.subject).sentence(i) for i in templates],
        "another object": [replace(fact, object=other.object).sentence(i) for i in templates],
        "irrelevant": [one.sentence(i) for i, one in enumerate(irrelevant)],
        "order flipped": [
            f"{fact.object} is {relation} {fact.subject}.",
            f"{fact.object}, {relation} {fact.subject}.",
        ],
        "flipped, without the relation": [
            f"{fact.object} is of {fact.subject}.",
            f"{fact.object}, {fact.subject}.",
        ],
    }


def write_variants(path: Path, query_id: str, texts: dict[str, list[str]]) -> None:
    """Write them as a file of probes, for one query."""
    values = {"queries": query_id, "partitions": texts}
    path.write_text(yaml.safe_dump(values, sort_keys=False, width=200), encoding="utf-8")
