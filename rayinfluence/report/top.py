"""The top of a page: what it is about, what was found at a glance, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayinfluence.report.markup import Html, join, tag, warning
from rayinfluence.report.reading import signs
from rayinfluence.report.text import count, shorten
from rayinfluence.storage.results import Results, is_itself
from rayinfluence.text import without_credentials

#: Warnings that stand open; more are folded.
_OPEN = 2
_NAME = 60
_WARNINGS = "warnings"


def title(manifest: Mapping[str, Any]) -> str:
    """The page's title: the model's name and the run's, as far as they are known."""
    names = _names(manifest)
    return f"Influence report: {', '.join(names)}" if names else "Influence report"


def top(
    results_by_method: Mapping[str, Results], queries: Sequence[Mapping[str, Any]], base: str = ""
) -> Html:
    """The header of a page.

    Args:
        results_by_method: of the run.
        queries: those that the page is about.
        base: the page that has what is not on this one; empty where this has it.
    """
    manifest = next(iter(results_by_method.values())).manifest
    warnings = dict.fromkeys(
        str(text)
        for results in results_by_method.values()
        for text in results.manifest.get("warnings") or []
    )
    links = [
        tag("a", text, href=f"{base}#{anchor}")
        for anchor, text in (
            ("trust", "How far to trust this"),
            ("reading", "How to read a score"),
            ("run", "What was run"),
        )
    ]
    return tag(
        "header",
        tag("p", " · ".join(["Influence report", *_names(manifest)]), class_="kicker"),
        tag("h1", _heading(queries)),
        tag("p", _standfirst(manifest, results_by_method), class_="standfirst"),
        signs(results_by_method),
        tag("p", join(links, " · "), class_="links"),
        *_viewed(manifest),
        _warnings(list(warnings), base),
    )


def _names(manifest: Mapping[str, Any]) -> list[str]:
    """What the model and the run are called: the last parts of their addresses."""
    model = str((manifest.get("model") or {}).get("path") or "")
    run = str((manifest.get("config") or {}).get("run") or "")
    names = [without_credentials(one).rstrip("/").rsplit("/", 1)[-1] for one in (model, run)]
    return [shorten(name, _NAME) for name in names if name]


def _heading(queries: Sequence[Mapping[str, Any]]) -> str:
    if queries and all(map(is_itself, queries)):
        return "Influence of training texts on themselves"
    n = len(queries)
    return f"Influence of training texts on {'an answer' if n == 1 else f'{count(n)} answers'}"


def _standfirst(manifest: Mapping[str, Any], results_by_method: Mapping[str, Results]) -> str:
    name, first = next(iter(results_by_method.items()))
    n = (manifest.get("methods") or {}).get(name, {})
    if first.meaning.of_groups:
        return f"{count(n['n_groups'])} groups of sequences, each left out of training, by {name}."
    scanned = count(n.get("scanned_sequences") or manifest["n_sequences"])
    methods = ", ".join(results_by_method)
    measured = any(one.meaning.measured for one in results_by_method.values())
    trained = "" if measured else " Nothing was retrained."
    return f"{scanned} sequences of the corpus scored by {methods}.{trained}"


def _viewed(manifest: Mapping[str, Any]) -> list[Html]:
    """What was left out of the page, or ranked otherwise, when it was asked for."""
    told = [one for key in ("without", "layers") if (one := manifest.get(key))]
    return [tag("p", one["sentence"], class_="warning") for one in told]


def _warnings(warnings: Sequence[str], base: str) -> Html:
    """Those of the run: once in a report, and on its other pages how many there are, and where."""
    if not warnings:
        return Html()
    n = len(warnings)
    label = f"{count(n)} warning{'s' * (n != 1)} of the run"
    if base:
        return tag("p", tag("a", label, href=f"{base}#{_WARNINGS}"), class_="warning")
    said = join(map(warning, warnings))
    if n <= _OPEN:
        return tag("div", said, id=_WARNINGS)
    return tag("details", tag("summary", label), said, class_="fold warnings", id=_WARNINGS)
