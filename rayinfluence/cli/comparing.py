"""``rayinfluence report`` of several results, or of several queries of one: beside each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from rayinfluence.cli.saying import say
from rayinfluence.display import Part
from rayinfluence.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from rayinfluence.report.compare import Comparison, Side
    from rayinfluence.storage.results import Results
    from rayinfluence.storage.store import Store

#: As many as there are letters.
_MOST = len(ascii_uppercase)
#: Results of a run that are not the current ones: `RUN@` and the beginning of their fingerprint.
_VERSION = re.compile(r"(?P<place>.+)@(?P<version>[0-9a-f]{4,32})")


def versioned(place: str) -> tuple[str, str | None]:
    """A run's place, and which of its results are meant; None for the current ones."""
    found = _VERSION.fullmatch(place)
    if found is None or Path(place).exists():
        return place, None
    return found["place"], found["version"]


def fingerprint_of(store: Store, version: str | None) -> str | None:
    """The fingerprint of results, by its beginning.

    Raises:
        ConfigError: a run has none such, or several.
    """
    from rayinfluence.storage.results import Results

    if version is None:
        return None
    there = Results.versions(store)
    found = [one for one in there if one.startswith(version)]
    if len(found) != 1:
        many = "several results" if found else "no results"
        raise ConfigError(
            f"{store.url}@{version}: {many} there begin so; it has {', '.join(there) or 'none'}."
        )
    return found[0]


def sides_of(
    places: Sequence[str], results: Sequence[Mapping[str, Results]], methods: Sequence[str]
) -> list[Side]:
    """What is compared: each of the results by each of the methods.

    Args:
        places: of the runs, as they were named.
        results: of each, by method.
        methods: that are compared. Where none is named: the first of the first run's that all
            have; where they have none in common, the first of each.

    Raises:
        ConfigError: one has no results by a method that is named, or there are too many.
    """
    from rayinfluence.report.compare import Side

    for name in methods:
        for place, by_method in zip(places, results, strict=True):
            if name not in by_method:
                raise ConfigError(
                    f"--method {name}: the results in {place} are by {', '.join(by_method)}."
                )
    common = [name for name in results[0] if all(name in one for one in results)]
    chosen = list(methods) or common[:1]
    found = [
        (place, by_method[name])
        for place, by_method in zip(places, results, strict=True)
        for name in chosen or list(by_method)[:1]
    ]
    if len(found) > _MOST:
        raise ConfigError(f"{len(found)} results: {_MOST} at most are compared.")
    return [
        Side(letter, place, one)
        for letter, (place, one) in zip(ascii_uppercase, found, strict=False)
    ]


def compared(sides: Sequence[Side], queries: Sequence[str], top: int | None) -> Comparison:
    """Sides beside the first, for the queries that are named; or queries of the only one.

    Args:
        sides: one or more.
        queries: ids of the first one's; of the only one two or more.
        top: how many first hits are shown.
    """
    from rayinfluence.report.compare import SHOWN, Comparison

    if len(sides) == 1:
        return Comparison.of_queries(sides[0], queries, top or SHOWN)
    return Comparison.of_sides(sides, top or SHOWN, queries)


def comparison_of(store: Store, comparison: Comparison) -> tuple[list[Part], dict[str, Any]]:
    """What a comparison says, for people and for programs; its page is written.

    Args:
        store: the first run's directory.
        comparison: of some results.
    """
    from rayinfluence.dataflow.layout import view_key
    from rayinfluence.report.compare import comparison_page, comparison_parts
    from rayinfluence.storage.digest import digest

    values = comparison.to_json()
    key = view_key(digest([values["sides"], [values["pairs"]]]))
    parts, address = comparison_parts(comparison), f"{store.url}/{key}"
    try:
        store.write(key, comparison_page(comparison).encode())
    except StorageError as error:  # results may be read by who may not write beside them
        say(f"no page: {error}", error=True)
        return parts, {**values, "page": None}
    return [*parts, "", f"comparison: {address}"], {**values, "page": address}
