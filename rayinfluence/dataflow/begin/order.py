"""A file of sentences by parts, each query with its own: what `analyse --what order` scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayinfluence.config import RunConfig
from rayinfluence.dataflow.begin.probes import Probe, probes_of, read_as
from rayinfluence.errors import InputError
from rayinfluence.influence.order import BEGINNING, FORWARD, PARTS, REVERSED

_PAIR = ("text", "beginning")
_WANTED = (
    "A file of parts has `queries`, with for the id of each the parts of its sentences: "
    f"`{FORWARD}`, `{REVERSED}` and any of {', '.join(f'`{part}`' for part in PARTS[1:])}. Each is "
    f"a list of texts; of `{REVERSED}` one of {{text, beginning}}, where the beginning ends after "
    "what the query asks for."
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
    """Read a file of parts; a query's beginnings come in the order of its reversed sentences.

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
    if unknown := [key for key in values if key not in (*PARTS, REVERSED)]:
        raise InputError(f"{query!r} has {unknown[0]!r}, which is no part. {_WANTED}")
    for needed in (FORWARD, REVERSED):
        if needed not in values:
            raise InputError(
                f"{query!r} has no {needed!r}, and without it nothing is compared. {_WANTED}"
            )
    texts = {part: values[part] for part in PARTS if part in values}
    texts |= dict(zip((REVERSED, BEGINNING), _pairs(query, values[REVERSED]), strict=True))
    return [
        Part(query, part, probe)
        for part, some in texts.items()
        for probe in probes_of({f"{query}, {part}": some})
    ]


def _pairs(query: str, values: Any) -> tuple[list[str], list[str]]:
    """Reversed sentences, and the beginning of each."""
    if not isinstance(values, list) or not values:
        raise InputError(f"{query!r}: its {REVERSED!r} is no list. {_WANTED}")
    wholes, beginnings = [], []
    for one in values:
        if not isinstance(one, Mapping) or set(one) != set(_PAIR):
            raise InputError(
                f"{query!r}: a {REVERSED} sentence is given with where it ends without the "
                f"relation, as {{text, beginning}}, and one is {one!r}. What it shares with the "
                "query as a string would count as its order otherwise."
            )
        whole, beginning = (one[key] for key in _PAIR)
        if not (isinstance(whole, str) and isinstance(beginning, str)):
            raise InputError(f"{query!r}: text or beginning of {one!r} is no text; use quotes.")
        if not whole.startswith(beginning) or len(whole) == len(beginning):
            raise InputError(
                f"{query!r}: {whole!r} does not begin with {beginning!r} and go on. The beginning "
                "is the sentence itself, up to what the query asks for."
            )
        wholes.append(whole)
        beginnings.append(beginning)
    return wholes, beginnings
