"""What people are asked about: first hits of methods, and random sequences, in an order of chance.

Who answers sees a question, its answer and a text. Which method found the text, and whether any
did, is in the key alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rayinfluence.errors import ConfigError, InputError
from rayinfluence.storage.digest import digest
from rayinfluence.storage.results import Results

#: What stands for a method where a sequence was drawn at random.
RANDOM = "random sequences"
#: How a text relates to an answer, from nothing to all: what is offered, and what it means.
RELATIONS: Mapping[str, str] = {
    "irrelevant": "has nothing to do with the question and its answer",
    "topic": "is of the same topic, and says nothing of the answer",
    "helps": "says something that bears on the answer, and not the answer",
    "states": "states the answer",
}
_WHAT = "review key"


@dataclass(frozen=True)
class Drawn:
    """A random sequence of the corpus."""

    sequence_id: int
    text: str


@dataclass(frozen=True)
class Item:
    """A text beside a question.

    Attributes:
        item: what it is called on sheets: its place, which says nothing of it.
        query_id: of the question.
        sequence_id: of the text; the first of several that have it.
        text: that is shown.
        by: by method, at which of its ranks the text stands; of random ones, which draw.
    """

    item: str
    query_id: str
    sequence_id: int
    text: str
    by: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Review:
    """All that is asked.

    Attributes:
        export: its name, which sheets have.
        fingerprint: of the results.
        methods: whose hits they are, and `RANDOM` if there are random sequences.
        top: hits of each method and query.
        topics: categories of what a text is about; none where that is written freely.
        queries: prompt and completion by id.
        items: in the order of sheets.
    """

    export: str
    fingerprint: str
    methods: tuple[str, ...]
    top: int
    topics: tuple[str, ...]
    queries: Mapping[str, tuple[str, str]]
    items: tuple[Item, ...]

    def key(self) -> dict[str, Any]:
        """What says which method found what: not for those who answer."""
        values = asdict(self)
        del values["queries"]
        for one in values["items"]:
            del one["text"]
        return {"what": _WHAT, **values}

    @classmethod
    def of_key(cls, values: Any, name: str) -> Review:
        """What a key says; texts are not in it.

        Raises:
            InputError: it is no key of an export.
        """
        try:
            if values["what"] != _WHAT:
                raise KeyError("what")
            items = tuple(
                Item(
                    str(one["item"]),
                    str(one["query_id"]),
                    int(one["sequence_id"]),
                    "",
                    {str(k): tuple(map(int, ranks)) for k, ranks in one["by"].items()},
                )
                for one in values["items"]
            )
            return cls(
                str(values["export"]),
                str(values["fingerprint"]),
                tuple(map(str, values["methods"])),
                int(values["top"]),
                tuple(map(str, values["topics"])),
                {},
                items,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{name} is no key of a review: name the key.json that `rayinfluence review "
                "export` wrote beside the sheets."
            ) from error


def chosen(
    by_method: Mapping[str, Results],
    queries: Mapping[str, tuple[str, str]],
    top: int,
    random: Mapping[str, Sequence[Drawn]],
    topics: Sequence[str],
    seed: int,
) -> Review:
    """The first proponents of each method, and random sequences, shuffled within each query.

    A text that several methods have, or one method twice, is asked about once.

    Args:
        by_method: results of one run.
        queries: prompt and completion of those that are asked, by id.
        top: hits of each method and query.
        random: drawn sequences of each query; empty where there are none.
        topics: categories of what a text is about, if there are any.
        seed: of the order.

    Raises:
        ConfigError: topics that are not different.
        InputError: no method has a hit.
    """
    if len({one.strip().casefold() for one in topics}) < len(topics) or not all(
        one.strip() for one in topics
    ):
        raise ConfigError("--topic: name different ones, none of them empty.")
    rng = np.random.default_rng([seed, 5])
    found: list[tuple[str, int, str, dict[str, tuple[int, ...]]]] = []
    for query_id in queries:
        texts = _texts(by_method, query_id, top, random.get(query_id, ()))
        ordered = [texts[place] for place in rng.permutation(len(texts))]
        found += [(query_id, *one) for one in ordered]
    if not found:
        raise InputError("there is nothing to review: no query has a hit.")
    items = tuple(Item(str(place), *one) for place, one in enumerate(found, start=1))
    methods = (*by_method, *([RANDOM] if any(random.values()) else []))
    fingerprint = str(next(iter(by_method.values())).manifest.get("fingerprint") or "")
    export = digest([fingerprint, list(topics), [asdict(one) for one in items]])[:16]
    return Review(export, fingerprint, methods, top, tuple(topics), dict(queries), items)


def _texts(
    by_method: Mapping[str, Results], query_id: str, top: int, random: Sequence[Drawn]
) -> list[tuple[int, str, dict[str, tuple[int, ...]]]]:
    """Different texts with who has them; in the order of what a text is, not of who has it."""
    of_text: dict[str, tuple[int, dict[str, list[int]]]] = {}

    def add(text: str, sequence_id: int, method: str, rank: int) -> None:
        _, by = of_text.setdefault(text, (sequence_id, {}))
        by.setdefault(method, []).append(rank)

    for method, results in by_method.items():
        for hit in results.proponents(query_id, top) if query_id in results.queries else ():
            add("".join(hit.token_texts), hit.sequence_id, method, hit.rank)
    for rank, one in enumerate(random, start=1):
        add(one.text, one.sequence_id, RANDOM, rank)
    return [
        (sequence_id, text, {method: tuple(ranks) for method, ranks in by.items()})
        for text, (sequence_id, by) in sorted(of_text.items())
    ]
