"""What a query asks for, in words: of plain ones the texts say so by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayinfluence.report.text import count

_PLAIN = "log-probability of the completion"


def objective(query: Mapping[str, Any]) -> str:
    """What is asked for and what the model gives it; empty of a plain query."""
    said = query.get("objective")
    if said is None or said == _PLAIN:
        return ""
    return f"{said}: {query['value']:.3g} {_unit(query)}"


def _unit(query: Mapping[str, Any]) -> str:
    return "" if query["unit"].startswith("that of") else str(query["unit"])


def members(query: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Of a set, its completions; of other queries none."""
    return query.get("set") or ()


def said(query: Mapping[str, Any]) -> tuple[str, str, str]:
    """What was given, what is asked about, and rather than what: texts, as far as there are."""
    if found := members(query):
        return "", f"{count(len(found))} completions", ""
    texts = (query.get(key) or "" for key in ("prompt", "completion", "rather_than"))
    prompt, completion, other = texts
    return prompt, completion, other


def raised(query: Mapping[str, Any]) -> str:
    """What a proponent is estimated to raise."""
    if query.get("rather_than") is not None:
        return "the completion's probability against the other's"
    if members(query) or (query.get("unit") or "").startswith("that of"):
        return "what is asked for"
    return "the completion's probability"
