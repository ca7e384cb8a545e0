"""What a query asks for, in words: of plain ones the texts say so by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayinfluence.report.text import count
from rayinfluence.storage.results import is_itself

_PLAIN = "log-probability of the completion"


def objective(query: Mapping[str, Any]) -> str:
    """What is asked for and what the model gives it; empty of a plain query."""
    said = query.get("objective")
    if said is None or said == _PLAIN:
        return ""
    unit = "" if _of_function(query) else f" {query['unit']}"
    return f"{said}: {query['value']:.3g}{unit}"


def _of_function(query: Mapping[str, Any]) -> bool:
    """Whether it is a function of the user's own, whose numbers have no unit that is known."""
    return (query.get("unit") or "").startswith("that of")


def members(query: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Of a set, its completions; of other queries none."""
    return query.get("set") or ()


def said(query: Mapping[str, Any]) -> tuple[str, str, str]:
    """What was given, what is asked about, and rather than what: texts, as far as there are."""
    if found := members(query):
        return "", f"{count(len(found))} completions", ""
    prompt, completion, other = (
        query.get(key) or "" for key in ("prompt", "completion", "rather_than")
    )
    return prompt, completion, other


def raised(query: Mapping[str, Any]) -> str:
    """What a proponent is estimated to raise."""
    if is_itself(query):
        return "their own probability"
    if members(query) or _of_function(query):
        return "what is asked for"
    if query.get("measurement") == "prediction":
        return "the prediction"
    whose = "logit" if query.get("measurement") == "logit" else "probability"
    if query.get("rather_than") is not None:
        return f"the completion's {whose} against the other's"
    if query.get("measurement") == "margin":
        return "the completion's odds against all others"
    if whose == "logit":
        return "the completion's logit"
    return "the completion's probability"
