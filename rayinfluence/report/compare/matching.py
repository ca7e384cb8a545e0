"""Which queries of two sides ask the same: by what is asked, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayinfluence.report.asked import members
from rayinfluence.report.text import count, shorten
from rayinfluence.storage.metadata import canonical
from rayinfluence.storage.results import is_itself

_WIDTH = 60
#: Of what is named, the first; the rest is counted.
_NAMED = 8
Queries = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Match:
    """A query that both sides asked.

    Attributes:
        ours: its id on the first side.
        theirs: on the other.
        note: in what the two differ; empty where they do not.
    """

    ours: str
    theirs: str
    note: str = ""


@dataclass(frozen=True)
class Matched:
    """Queries that both sides asked, and sentences that name all others."""

    matches: tuple[Match, ...]
    others: tuple[str, ...]


def matched(
    ours: Queries, theirs: Queries, letters: tuple[str, str], same_tokens: bool = True
) -> Matched:
    """Match queries: by digest, then, where tokens differ, by their texts; equal ids go first.

    Each is matched once. One id that stands for two questions is a match of neither, and is named.

    Args:
        ours: rows of queries by id.
        theirs: those of the other side.
        letters: what the sides are called.
        same_tokens: whether both have one tokenizer; digests of others are of other tokens.
    """
    a, b = letters
    left, right = dict(ours), dict(theirs)
    found: dict[str, Match] = {}
    ways: list[tuple[Callable[[Mapping[str, Any]], str], str]] = [(_texts, "")]
    if same_tokens:
        ways = [(_digest, ""), (_texts, "its tokens, or how they count, differ")]
    for key_of, said in ways:
        there: dict[str, list[str]] = {}
        for name, row in right.items():
            there.setdefault(key_of(row), []).append(name)
        # Those that are called alike first, so that nothing else takes their place.
        for query_id in sorted(left, key=lambda name: name not in right):
            key = key_of(left[query_id])
            names = there.get(key) or []
            if not key or not names:
                continue
            other = query_id if query_id in names else names[0]
            names.remove(other)
            called = "" if other == query_id else f"it is called {shorten(other, _WIDTH)} in {b}"
            note = ", and ".join(filter(None, (called, said)))
            found[query_id] = Match(query_id, other, note)
            del left[query_id], right[other]
    others = [
        f"{shorten(name, _WIDTH)} asks one thing in {a} and another in {b}"
        for name in left
        if name in right
    ]
    for letter, names in (
        (a, [name for name in left if name not in right]),
        (b, [name for name in right if name not in left]),
    ):
        if names:
            others.append(f"asked in {letter} alone: {_named(names)}")
    return Matched(tuple(found[name] for name in ours if name in found), tuple(others))


def _digest(query: Mapping[str, Any]) -> str:
    """Of what is asked; of each sequence by itself there is nothing but that."""
    return "itself" if is_itself(query) else str(query.get("digest") or "")


def _texts(query: Mapping[str, Any]) -> str:
    """What is asked as texts, which other tokenizers make other tokens of."""
    if is_itself(query):
        return "itself"
    keys = ("prompt", "completion", "rather_than", "objective", "unit", "measurement")
    sets = [[m["weight"], m["prompt"], m["completion"], m["spans"]] for m in members(query)]
    asked = [*(query.get(key) for key in keys), sets]
    return canonical(asked) if query.get("completion") is not None or sets else ""


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(shorten(name, _WIDTH) for name in names[:_NAMED])
    rest = len(names) - _NAMED
    return f"{shown} and {count(rest)} more" if rest > 0 else shown
