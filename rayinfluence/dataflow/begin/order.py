"""A file of sentences by parts, each query with its own: what `analyse --what order` scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.probes import Probe, probes_of, read_as
from rayinfluence.errors import InputError
from rayinfluence.influence.order import FORWARD, LANGUAGE, PAIRS, PARTS, REVERSED

#: What a pair is made of, by its part.
_KEYS = {REVERSED: ("text", "beginning"), LANGUAGE: ("text", "control")}
_WANTED = (
    "A file of parts has `queries`, with for the id of each the parts of its sentences: "
    f"`{FORWARD}`, and any of "
    f"{', '.join(f'`{part}`' for part in (*PARTS[1:], REVERSED, LANGUAGE))}. "
    f"Each is a list of texts; of `{REVERSED}` one of {{text, beginning}}, where the beginning "
    f"ends after what the query asks for, and of `{LANGUAGE}` one of {{text, control}}, where the "
    "control is in that language too and says something else."
)


@dataclass(frozen=True)
class Part:
    """A text, and what it is to which query.

    Attributes:
        query: its id.
        part: of :mod:`rayinfluence.influence.order`.
        probe: the text.
    """

    query: str
    part: str
    probe: Probe


def read_parts(path: str, config: RunConfig) -> list[Part]:
    """Read a file of parts; of pairs all firsts come before all seconds, in the same order.

    Args:
        path: the YAML file; may be s3://.
        config: of the run, whose storage it may be in.

    Raises:
        ConfigError: there is no such file.
        InputError: it is none, and what is wrong in it.
    """
    return read_as(parts_of, path, config, "--probes", _WANTED)


def parts_of(values: Any) -> list[Part]:
    """The parts that a file's values have.

    Raises:
        InputError: they have none, or what is wrong in them.
    """
    if not isinstance(values, dict) or set(values) != {"queries"}:
        raise InputError(f"it has to have `queries` and no other key. {_WANTED}")
    queries = values["queries"]
    if not isinstance(queries, dict) or not queries:
        raise InputError(f"its `queries` are no ids with parts. {_WANTED}")
    return [part for query, of_query in queries.items() for part in _of_query(query, of_query)]


def _of_query(query: Any, values: Any) -> list[Part]:
    if not isinstance(query, str):
        raise InputError(f"one of its `queries` is {query!r}, and no text; put the id in quotes.")
    if not isinstance(values, dict):
        raise InputError(f"{query!r} has no parts. {_WANTED}")
    if unknown := [key for key in values if key not in (*PARTS, *PAIRS)]:
        raise InputError(f"{query!r} has {unknown[0]!r}, which is no part. {_WANTED}")
    if FORWARD not in values:
        raise InputError(
            f"{query!r} has no {FORWARD!r}, and without it nothing is compared. {_WANTED}"
        )
    if set(values) == {FORWARD}:
        raise InputError(
            f"{query!r} has {FORWARD!r} alone, and nothing that it is compared with. {_WANTED}"
        )
    in_pairs = [part for part in PAIRS if part in values]
    texts = {part: values[part] for part in PARTS if part in values}
    for part in in_pairs:
        both = _pairs(query, part, values[part])
        texts |= dict(zip((part, PAIRS[part][0]), both, strict=True))
    return [
        Part(query, part, probe)
        for part, some in texts.items()
        for probe in probes_of({f"{query}, {part}": some})
    ]


def _pairs(query: str, part: str, values: Any) -> tuple[list[str], list[str]]:
    """Texts of a part, and what each stands beside."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{query!r}: its {part!r} is no list, or an empty one. {_WANTED}")
    pairs = [_pair(query, part, one) for one in values]
    return [text for text, _ in pairs], [beside for _, beside in pairs]


def _pair(query: str, part: str, one: Any) -> tuple[str, str]:
    keys = _KEYS[part]
    if not isinstance(one, Mapping) or set(one) != set(keys):
        told = "{" + ", ".join(keys) + "}"
        why = (
            "A reversed sentence is given with where it ends without the relation: what it shares "
            "with the query as a string would count as its order otherwise."
            if part == REVERSED
            else "A sentence in another language is given with one in that language that says "
            "something else: what the two have in common would count as its meaning otherwise."
        )
        raise InputError(f"{query!r}: of {part!r} each is {told}, and one is {one!r}. {why}")
    whole, beside = (one[key] for key in keys)
    if not (isinstance(whole, str) and isinstance(beside, str)):
        raise InputError(f"{query!r}: {keys[0]} or {keys[1]} of {one!r} is no text; use quotes.")
    if part == REVERSED and (not whole.startswith(beside) or len(whole) == len(beside)):
        raise InputError(
            f"{query!r}: {whole!r} does not begin with {beside!r} and go on. The beginning "
            "is the sentence itself, up to what the query asks for."
        )
    if part == LANGUAGE and whole == beside:
        raise InputError(
            f"{query!r}: {whole!r} is its own control. The control is in the same language and "
            "says something else."
        )
    return whole, beside
